"""A loaded target model and what the edge says of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Target:
    """A causal language model in evaluation mode, its tokenizer in canonical form, and its limits."""

    name: str
    model: PreTrainedModel
    tokenizer_json: str
    vocabulary: int  # highest id of the tokenizer plus one; never the embedding rows
    stop_ids: tuple[int, ...]
    context_tokens: int
    model_digest: bytes  # 32 bytes
    chat_template: str | None

    @property
    def dtype(self) -> str:
        """Return the weights' type: float32, bfloat16 or float16."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.model.device
