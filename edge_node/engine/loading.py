"""Loads a target: safetensors only, no code from the checkpoint, nothing whose cache is not plain attention."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from airdraft.checkpoint import CheckpointRefused, Role, files_digest, local_folder, stored_tokenizer
from airdraft.core.tokenizer_digest import vocabulary_size
from airdraft.manifest import Manifest, root_of
from edge_node.engine.masks import attention_kinds
from edge_node.engine.packed_linear import pack_linears
from edge_node.engine.probe import probe
from edge_node.engine.target import Target

__all__ = ["Target", "load_target"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_target(
    reference: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_context: int = 4096,
    role: Role = Role.TARGET,
    manifest: str | None = None,
) -> Target:
    """Load a target, or a drafter that an edge runs like one, and try it on a few positions.

    reference    ``demo``, a folder, or a hub id
    device       ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
    dtype        ``auto``: float32 on a CPU, the checkpoint's own on a GPU
    max_context  prompt and answer in tokens; the model's own limit holds where it is less
    role         what ``demo`` stands for
    manifest     text of one: nothing is read but what it lists, and the model shares no memory with its files

    Raises CheckpointRefused with one line that says what to do.
    """
    folder = local_folder(reference, role, revision=revision)
    name = folder.resolve().name if Path(reference).expanduser() == folder else reference
    place = _device(device)
    listed = None if manifest is None else Manifest.of(manifest, root_of(folder))
    with nullcontext(folder) if listed is None else listed.pinned(folder) as files:
        config = _config(files, name)
        tokenizer_json, chat_template, end_id = _tokenizer(files, name)
        model = _model(files, name, config, _dtype(dtype, place))
        model.to(place)  # type: ignore[arg-type]
        if listed is not None:
            _own(model)
        model_digest = files_digest(files)
    vocabulary = vocabulary_size(tokenizer_json)
    embeddings: Any = model.get_input_embeddings()
    if vocabulary > (rows := embeddings.num_embeddings):
        raise CheckpointRefused(f"{name} has {vocabulary} tokens but embeds {rows}; fetch the model again")
    target = Target(
        name=name,
        model=model,
        tokenizer_json=tokenizer_json,
        vocabulary=vocabulary,
        stop_ids=_stop_ids(model, end_id),
        context_tokens=_context_tokens(config, max_context),
        model_digest=model_digest,
        chat_template=chat_template,
    )
    pack_linears(model)
    probe(target)
    return target


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointRefused(f"device {wanted} cannot be used here ({reason}); try --device cpu") from None
    return torch.device(wanted)


def _dtype(wanted: str, device: torch.device) -> torch.dtype | str:
    if wanted == "auto":
        # Half precision is slower than float32 on most CPUs, and near ties flip between shapes.
        return torch.float32 if device.type == "cpu" else "auto"
    return _DTYPES[wanted]


def _config(folder: Path, name: str) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointRefused(f"transformers cannot read {name}: {_line(error)}") from None
    if config.is_encoder_decoder:
        raise CheckpointRefused(f"{name} is an encoder-decoder model; choose a decoder-only (causal) one")
    attention_kinds(config.get_text_config(decoder=True), name)
    return config


def _tokenizer(folder: Path, name: str) -> tuple[str, str | None, int | None]:
    """Return the tokenizer's canonical JSON, the chat template and the id that ends a text."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        canonical = stored_tokenizer(folder) or tokenizer.backend_tokenizer.to_str()
    except CheckpointRefused:
        raise
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise CheckpointRefused(f"{name} has no fast tokenizer (tokenizer.json): {_line(error)}") from None
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    end = tokenizer.eos_token
    return canonical, template, None if end is None else Tokenizer.from_str(canonical).token_to_id(end)


def _model(folder: Path, name: str, config: PretrainedConfig, dtype: torch.dtype | str) -> PreTrainedModel:
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    load: Any = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel
    try:
        model, report = load(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointRefused(f"transformers cannot load {name}: {_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise CheckpointRefused(f"{name} lacks {len(missing)} weights, {missing[0]} among them; fetch the model again")
    # A private name, but the only word for it: transformers itself asks it before assisted generation.
    if model._is_stateful:
        raise CheckpointRefused(f"{name} has recurrent state, which cannot be rolled back yet; choose another model")
    if model.config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("eager")  # the others take no additive mask
    model.requires_grad_(False)
    return model.eval()  # type: ignore[no-any-return, no-untyped-call]


def _own(model: PreTrainedModel) -> None:
    """Copy weights that are still mapped from their files, which others could write: one tensor at a time."""
    for weights in (*model.parameters(), *model.buffers()):
        if weights.device.type == "cpu":
            weights.data = weights.data.clone()


def _stop_ids(model: PreTrainedModel, tokenizer_end_id: int | None) -> tuple[int, ...]:
    """Return the ids that end a text: the generation configuration's, else the model's, else the tokenizer's."""
    settings = model.generation_config
    candidates = (
        None if settings is None else settings.eos_token_id,
        getattr(model.config.get_text_config(decoder=True), "eos_token_id", None),
        tokenizer_end_id,
    )
    for ids in candidates:
        if ids is not None:
            return tuple(sorted({ids} if isinstance(ids, int) else set(ids)))
    return ()


def _context_tokens(config: PretrainedConfig, max_context: int) -> int:
    own = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)  # GPT-2 maps n_positions to it
    return max_context if own is None else min(max_context, own)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
