"""A small causal language model as drafter, on torch and transformers.

Imported only when such a drafter is asked for: the two take seconds to import and a plain device install lacks them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging as transformers_logging

from airdraft.checkpoint import CheckpointRefused, Role, files_digest, local_folder, stored_tokenizer
from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.sampling import choose
from airdraft.core.tokenizer_digest import vocabulary_size
from airdraft.core.types import Sampling
from airdraft.manifest import Manifest, root_of
from device_client.drafters.sparse import most_likely

CUT_TOKENS = 4
"""Most tokens that a forward may be given up for in its midst.

A longer one reads a prompt, or what was committed while the drafter rested: the next proposal needs that too, and given
up at each commit it would never be done.
"""

_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Cut(Exception):
    """The forward at work is void."""


class _CuttableCache(DynamicCache):
    """A cache that gives a forward up once it is void: each layer asks before it writes."""

    void: Callable[[], bool] | None = None  # of the forward at work; None: it is finished in any case

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a layer's rows. Raises _Cut."""
        self.ask()
        rows: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return rows

    def ask(self) -> None:
        """Raise _Cut where the forward at work is void."""
        if self.void is not None and self.void():
            raise _Cut

    def cut_to(self, length: int) -> None:
        """Roll every layer back to ``length`` rows; after a cut they hold unequally many."""
        layers: Any = self.layers
        for layer in layers:
            layer.crop(min(0, length - layer.get_seq_length()))  # the number of rows to remove, negative


class TorchDrafter:
    """Drafts the model's own text, with the target's noise.

    A path that differs from the last one costs only what differs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        sampling: Sampling | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        """Draft by the session's own ``sampling``, the most likely tokens where it is not given.

        ``folder`` is where the model was loaded from; without it there is no digest of it.
        """
        self._model = model
        self._vocabulary = vocabulary
        self.sampling = sampling or Sampling()
        self.confidences: list[float] = []  # top probability of each token of the proposal at work or last made
        self.states: list[NDArray[np.float32]] = []  # [state_width]: what the LM head read when it wrote each of them
        self.tells_q = False  # whether ``q`` is kept: it costs some 2 ms a token of a large vocabulary
        self.q: list[SparseQ] = []  # the most likely tokens of the distribution that each of them comes from
        self._folder = folder
        config = model.config.get_text_config(decoder=True)
        self._context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._held: list[int] = []  # the ids whose keys and values the cache holds
        self._cache = _CuttableCache()
        self._head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # a fourth of small weights
        self._state: NDArray[np.float32] | None = None  # that it read last

    @property
    def state_width(self) -> int:
        """Return how many numbers a state has."""
        return int(self._head.weight.shape[1])

    def digest(self) -> bytes:
        """Return the 32 bytes that name the model, empty where it has no files; reads all weights once."""
        return b"" if self._folder is None else files_digest(self._folder)

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens after ``path``; fewer at the end of the model's context or once cancelled.

        The whole of a new prompt is read in one forward. A forward over few tokens asks ``cancelled`` before each layer
        and is given up in their midst. Raises ValueError where the model's logits hold a NaN.
        """
        if self._context_tokens is not None:
            count = min(count, self._context_tokens - len(path))
        proposal: list[int] = []
        self.confidences, self.states, self.q = [], [], []
        feed = self._lacking(list(path)) if path else []
        while feed and len(proposal) < count and not cancelled():
            try:
                logits = self._logits(feed, cancelled)
            except _Cut:
                self._cache.cut_to(len(self._held))
                break
            token = choose(logits, self.sampling, self._vocabulary, [*path, *proposal])
            proposal.append(token)
            self._tell(logits[: self._vocabulary], token)
            feed = [token]
        return proposal

    def _tell(self, logits: NDArray[np.float32], token: int) -> None:
        """Keep what may be asked about a token that comes from these logits [V]."""
        assert self._state is not None
        self.states.append(self._state)
        if self.tells_q:
            self.q.append(most_likely(logits, token))
        self.confidences.append(_top_probability(logits))  # last: who sees it may ask for the others

    def learn(self, ids: Sequence[int]) -> None:
        """Do nothing: what was committed comes back in the next path."""

    def _lacking(self, path: list[int]) -> list[int]:
        """Roll the cache back to where it parts from ``path``; return the rest, at least the last id."""
        shared = min(len(self._held), len(path) - 1)
        if self._held[:shared] != path[:shared]:
            shared = next(index for index in range(shared) if self._held[index] != path[index])
        self._cache.cut_to(shared)
        del self._held[shared:]
        return path[shared:]

    @torch.inference_mode()
    def _logits(self, feed: list[int], cancelled: Callable[[], bool]) -> NDArray[np.float32]:
        """Read ``feed`` and return the logits [V] after its last token. Raises _Cut."""
        start = len(self._held)
        self._cache.void = cancelled if len(feed) <= CUT_TOKENS else None
        drafts_in = threading.get_ident()

        def ask(_: object, read: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == drafts_in:  # whoever else runs the same model is not to be cut
                self._cache.ask()
                self._state = read[0][0, -1].float().numpy().copy()

        with self._head.register_forward_pre_hook(ask):
            output: Any = self._model(
                input_ids=torch.tensor([feed]),
                position_ids=torch.arange(start, start + len(feed))[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._held += feed
        logits: NDArray[np.float32] = output.logits[0, -1].float().numpy()
        return logits


def _top_probability(logits: NDArray[np.float32]) -> float:
    """Return the greatest probability of softmax over logits [V], at temperature 1 whatever the session's.

    In float32: 5 us of a token at 819 rows, 0.12 ms at 152k.
    """
    weights = logits - logits.max()
    return 1 / float(np.exp(weights, out=weights).sum())


def load_torch_drafter(
    reference: str,
    *,
    vocabulary: int,
    sampling: Sampling | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    manifest: str | None = None,
) -> tuple[TorchDrafter, str]:
    """Return a drafter on the CPU and its tokenizer's canonical JSON, which the caller compares with the target's.

    reference   ``demo``, a folder, or a hub id
    vocabulary  size of the target's tokenizer: no id at or above it is drafted
    sampling    the session's; None drafts the most likely tokens
    dtype       ``auto`` is float32
    manifest    text of one: nothing is read but what it lists, and the model shares no memory with its files

    Raises CheckpointRefused.
    """
    folder = local_folder(reference, Role.DRAFTER, revision=revision)
    listed = None if manifest is None else Manifest.of(manifest, root_of(folder))
    try:
        with nullcontext(folder) if listed is None else listed.pinned(folder) as files:
            model, tokenizer_json = _load(files, _DTYPES[dtype])
            for weights in (*model.parameters(), *model.buffers()) if listed is not None else ():
                weights.data = weights.data.clone()  # some are mapped from their files, which others could write
    except CheckpointRefused:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointRefused(f"drafter {reference} cannot be loaded: {reason}; choose another drafter") from None
    return TorchDrafter(model, vocabulary, sampling, folder=folder), tokenizer_json


def _load(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, str]:
    """Return model and tokenizer. Raises ValueError where the model cannot draft here, and what transformers raises."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the terminal belongs to the text
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, **local)
    if config.is_encoder_decoder:
        raise ValueError("it is an encoder-decoder model")
    if any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers
    ):
        raise ValueError("it has recurrent state, which cannot be rolled back")
    tokenizer_json = stored_tokenizer(folder)
    if tokenizer_json is None:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
        tokenizer_json = str(tokenizer.backend_tokenizer.to_str())
    load: Any = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel
    model, report = load(folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **local)
    if model._is_stateful:
        raise ValueError("it has recurrent state, which cannot be rolled back")
    if report["missing_keys"]:
        raise ValueError(f"it lacks {len(report['missing_keys'])} weights")
    embeddings: Any = model.get_input_embeddings()
    if vocabulary_size(tokenizer_json) > embeddings.num_embeddings:
        raise ValueError(f"it embeds {embeddings.num_embeddings} of its {vocabulary_size(tokenizer_json)} tokens")
    model.requires_grad_(False)
    return model.eval(), tokenizer_json  # type: ignore[no-untyped-call]
