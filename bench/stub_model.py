"""A stub target, its drafter, and texts known beforehand: what a soak compares with.

The target is a tiny llama with random weights; no id ends its text, which so runs for as many tokens as are asked for.
The drafter is the target with blurred weights: right often, not always. The known texts are made by transformers' own
cache and the reference sampler, a token at a time: nothing of the edge's engine or of the protocol has a part in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from airdraft.core.sampling import choose
from airdraft.core.types import Sampling

WORDS = 300
_ROWS = 320  # some are padding
CONTEXT = 2048
PROMPT_TOKENS = (6, 90, 600)  # the longest takes two passes to read
BLUR = 0.008  # of the weights, whose spread is 0.15
NEAR_TIE = 1e-3
"""A choice that noise of this size in the logits can turn is a near tie."""

ROUNDING = 1e-4
"""Far more than the logits of passes of different widths differ by; a known text ends before such a near tie."""

_SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.8, "min_p": 0.02, "presence_penalty": 0.5, "frequency_penalty": 0.1},
)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """What the target writes after a prompt; every shorter answer is a beginning of it."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    sampling: Sampling
    logits: NDArray[np.float32]  # [len(ids) or more, V], the rows that the ids were chosen from

    @property
    def prompt(self) -> str:
        """Return the prompt as a user types it."""
        return _words(self.prompt_ids)

    def shown(self, count: int) -> str:
        """Return the first ``count`` tokens as a device prints them."""
        return _words(self.ids[:count])

    def near_tie(self, index: int) -> bool:
        """Say whether a device may have another token there by rounding alone."""
        path = (*self.prompt_ids, *self.ids[:index])
        return _turns(self.logits[index], self.sampling, path, NEAR_TIE, draws=32)


def _words(ids: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in ids)


def write_stubs(folder: Path) -> tuple[Path, Path]:
    """Write the target and its drafter; return their folders. The same bytes every time."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    target, drafter = folder / "target", folder / "drafter"
    model = _model()
    _save(model, target)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights), alpha=BLUR)
    _save(model, drafter)
    return target, drafter


def known_texts(count: int, tokens: int, random: Random) -> list[Text]:
    """Return ``count`` texts of up to ``tokens`` tokens, over all prompt lengths and sampling settings."""
    model = _model()
    wanted = []
    for settings in islice(cycle(_SETTINGS), count):
        prompt = [random.randrange(WORDS) for _ in range(random.choice(PROMPT_TOKENS))]
        wanted.append((prompt, Sampling(seed=random.getrandbits(64), **settings)))
    alike = [[pair for pair in wanted if len(pair[0]) == length] for length in PROMPT_TOKENS]
    return [text for batch in alike if batch for text in _written(model, batch, tokens)]


def _model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=_ROWS,
                hidden_size=48,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=12,
                max_position_embeddings=CONTEXT,
                initializer_range=0.15,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )
        sample = torch.randint(WORDS, (1, 64), generator=torch.Generator().manual_seed(0))
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    norm: Any = model.get_submodule("model.norm")
    norm.weight *= 2.0 / float(model(input_ids=sample).logits.std())  # wide enough that near ties are rare
    return model


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(WORDS)}, unk_token="w1"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


@torch.inference_mode()
def _written(model: LlamaForCausalLM, wanted: Sequence[tuple[list[int], Sampling]], tokens: int) -> Iterator[Text]:
    """Write texts side by side; their prompts have one length."""
    paths = [list(prompt) for prompt, _ in wanted]
    samplings = [sampling for _, sampling in wanted]
    start = len(paths[0])
    seen = np.empty((len(paths), tokens, _ROWS), dtype=np.float32)
    cache, feed = DynamicCache(), torch.tensor(paths)
    for index in range(tokens):
        output: Any = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        seen[:, index] = output.logits[:, -1].float().numpy()
        for path, logits, sampling in zip(paths, seen[:, index], samplings, strict=True):
            path.append(choose(logits, sampling, WORDS, path))
        feed = torch.tensor([path[-1:] for path in paths])
    for path, logits, sampling in zip(paths, seen, samplings, strict=True):
        tied = (index for index in range(tokens) if _turns(logits[index], sampling, path[: start + index], ROUNDING))
        ends = next(tied, tokens)
        yield Text(tuple(path[:start]), tuple(path[start : start + ends]), sampling, logits)


def _turns(logits: NDArray[np.float32], sampling: Sampling, path: Sequence[int], noise: float, draws: int = 3) -> bool:
    """Say whether noise of up to this size in the logits [V] turns the choice after ``path``."""
    chance = np.random.default_rng(len(path))
    noisy = logits + chance.uniform(-noise, noise, (draws, len(logits))).astype(np.float32)
    return len({choose(row, sampling, WORDS, path) for row in (logits, *noisy)}) > 1
