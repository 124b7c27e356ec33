"""Tiny models of every family that the engine promises, with random weights.

Weights are wide enough that attention is sharp: a token seen or hidden by mistake moves logits by about their spread,
which is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 128
WINDOW = 8
CONTEXT = 192
SPREAD = 0.15

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT,
    "initializer_range": SPREAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_DECODER))


def _qwen2() -> PreTrainedModel:
    options = {key: value for key, value in _DECODER.items() if key != "head_dim"}
    return Qwen2ForCausalLM(Qwen2Config(**options))


def _qwen2_sliding() -> PreTrainedModel:
    options = {key: value for key, value in _DECODER.items() if key != "head_dim"}
    return Qwen2ForCausalLM(Qwen2Config(**options, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1))


def _qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**_DECODER))


def _mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_DECODER, sliding_window=WINDOW))


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=48,
            n_layer=2,
            n_head=4,
            initializer_range=SPREAD,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _gemma3() -> PreTrainedModel:
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            **_DECODER,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=12,
            tie_word_embeddings=True,
        )
    )


_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen2-sliding": _qwen2_sliding,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gpt2": _gpt2,
    "gemma3": _gemma3,
}
SHAPES = tuple(_MAKERS)


@lru_cache
def shape(name: str, seed: int = 0, attention: str = "sdpa") -> PreTrainedModel:
    """Return the family's model in float32 and evaluation mode; the same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _MAKERS[name]()
        model.requires_grad_(False)
        model.eval()  # type: ignore[no-untyped-call]
        model.set_attn_implementation(attention)
        _unit_spread(model)
    return model


def text(length: int, seed: int = 0) -> list[int]:
    """Return random ids."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    return ids


def plain_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Return the logits [len(ids), V] of one forward without cache, by the model's own masks."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def greedy(model: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    """Return ``count`` tokens of ``generate``."""
    output = model.generate(  # type: ignore[operator]
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=count
    )
    tokens: list[int] = output[0, len(ids) :].tolist()
    return tokens


def _unit_spread(model: PreTrainedModel) -> None:
    """Scale the last norm, which is right for tied and untied heads alike, until logits have a spread of one."""
    spread = float(plain_logits(model, text(64)).std())
    kind = model.config.model_type
    norm: Any = model.get_submodule("transformer.ln_f" if kind == "gpt2" else "model.norm")
    if kind == "gemma3_text":  # this one multiplies by one plus the weight
        norm.weight.copy_((1 + norm.weight) / spread - 1)
        return
    norm.weight /= spread
    if kind == "gpt2":
        norm.bias /= spread
