"""Puts an engine together: the target, its drafter, and a pool as large as memory and the settings allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from airdraft.checkpoint import CheckpointRefused, Role, local_folder
from airdraft.core.session import PASS_NODES
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Sampling, Span
from airdraft.manifest import Manifest, root_of
from edge_node.engine.drafter import load_drafter
from edge_node.engine.engine import TargetEngine
from edge_node.engine.judging import judge_of
from edge_node.engine.loading import load_target
from edge_node.engine.owners import RowOwners
from edge_node.engine.reflection import Reflection
from edge_node.engine.runner import EdgeDrafter, StepRunner, out_of_memory
from edge_node.engine.sampling import choose_batch
from edge_node.engine.target import Target
from edge_node.engine_messages import Load, Loaded, LoadFailed
from edge_node.heads import HeadFile, HeadRefused, load_head
from edge_node.reflective import CannotReflect, asking_ids
from edge_node.step import DraftItem, Extent, Fill

Report = Callable[[str], None]

_GRAIN = 64  # pools and extents are multiples of so many rows
_TRIAL_POSITIONS = 512  # of the pass after which the memory of a GPU is measured
_GPU_SHARE = 0.9
_HOST_SHARE = 0.5

TIES = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""How far a logit may move, by the weights' type, where a pass has another shape.

The demo target's move by up to 1.3e-5, 0.04 and 0.19 on a CPU; deeper models add up more. Too much only counts near
ties that are none.
"""

INT8_TIE = 0.25
"""The least of those where keys and values are rounded to int8: a last bit may then move one by a whole step."""


class PoolTooSmall(ValueError):
    """Memory does not hold the rows of one text."""


def assemble(load: Load, report: Report) -> tuple[StepRunner, Loaded] | LoadFailed:
    """Load what is asked for and try it; return it with what the front must know, or why it cannot be had."""
    if load.threads is not None:
        torch.set_num_threads(load.threads)
    try:
        return _assembled(load, report)
    except (CheckpointRefused, HeadRefused) as error:
        return LoadFailed(str(error), "checkpoint")
    except CannotReflect as error:
        return LoadFailed(f"{load.model} cannot be asked about its drafts: {error}", "checkpoint")
    except PoolTooSmall as error:
        return LoadFailed(str(error), "machine")
    except Exception as error:
        if not out_of_memory(error):
            raise  # a bug, with its traceback
        return LoadFailed(
            f"{load.model} does not fit the memory here; try --dtype bfloat16, --kv-dtype int8, a lower --kv-tokens "
            "or a smaller model",
            "machine",
        )


def pool_rows(*, wanted: int | None, memory_bytes: int, row_bytes: int, text_rows: int, max_sessions: int) -> int:
    """Return how many rows the pool shall have.

    wanted        what the operator asked for; None is what memory gives, but no more than all sessions can use
    memory_bytes  that the pool may take
    text_rows     of the extent of the longest text: the pool holds one at least

    Raises PoolTooSmall.
    """
    if wanted is not None:
        return max(_rounded_up(wanted), text_rows)
    rows = min(memory_bytes // row_bytes // _GRAIN * _GRAIN, max_sessions * text_rows)
    if rows < text_rows:
        raise PoolTooSmall(
            f"memory for the cache is {memory_bytes >> 20} MiB, {rows} rows, and one text takes {text_rows}; lower "
            "--max-context, or try --kv-dtype int8"
        )
    return rows


def text_rows(context_tokens: int) -> int:
    """Return the rows of the longest text's extent, draft nodes at its end included."""
    return _rounded_up(context_tokens + PASS_NODES)


def _rounded_up(rows: int) -> int:
    return -(-rows // _GRAIN) * _GRAIN


def host_memory_bytes(root: Path = Path("/")) -> int:
    """Return what the host has available, or what a container's limit leaves of it."""
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    groups = root / "sys/fs/cgroup"
    try:
        limit = int((groups / "memory.max").read_text(encoding="ascii"))
        held = int((groups / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available
    return min(available, max(0, limit - held))


def _assembled(load: Load, report: Report) -> tuple[StepRunner, Loaded]:
    target = load_target(
        load.model,
        revision=load.revision,
        device=load.device,
        dtype=load.dtype,
        max_context=load.max_context,
        manifest=load.manifest,
    )
    listed = None if load.manifest is None else Manifest.of(load.manifest, _root(load))
    heads = [load_head(Path(path), model_digest=target.model_digest, manifest=listed) for path in load.heads]
    asking = asking_ids(target.chat_template, target.tokenizer_json) if load.reflect else ()
    drafter = _drafter(load, target)
    report(f"trying {target.name} on {target.device}")
    scratch_rows = text_rows(target.context_tokens) if load.reflect else 0
    engine = _engine(load, target, scratch_rows)
    scratch = Extent(engine.rows - scratch_rows, scratch_rows)
    judge = judge_of(target, heads, Reflection(engine, scratch, asking) if load.reflect else None)
    tie = 0.0 if load.profile == "strict" else max(TIES[target.dtype], INT8_TIE if load.kv_dtype == "int8" else 0.0)
    owners = RowOwners(engine.rows - scratch_rows)
    runner = StepRunner(engine, target.vocabulary, drafter, judge=judge, tie=tie, owners=owners)
    _warm_up(engine, target.vocabulary, 1)
    for path, head in zip(load.heads, heads, strict=True):
        _try_head(path, head, engine)
    engine.fill(Fill(0, 1))
    return runner, loaded_of(target, engine, scratch_rows)


def _engine(load: Load, target: Target, scratch_rows: int) -> TargetEngine:
    """Return an engine whose pool fits: a small one is tried first, to see what a row and a pass take.

    ``scratch_rows`` stand after the pool's.
    """
    trial = TargetEngine(target, _TRIAL_POSITIONS, profile=load.profile, kv_dtype=load.kv_dtype)
    _warm_up(trial, target.vocabulary, _TRIAL_POSITIONS if target.device.type == "cuda" else 1)
    rows = pool_rows(
        wanted=load.kv_tokens,
        memory_bytes=_memory_bytes(target.device) - scratch_rows * trial.row_bytes,
        row_bytes=trial.row_bytes,
        text_rows=text_rows(target.context_tokens),
        max_sessions=load.max_sessions,
    )
    return TargetEngine(
        target,
        rows + scratch_rows,
        profile=load.profile,
        kv_dtype=load.kv_dtype,
        poison=load.poison,
        ladder=trial.ladder,
    )


def _try_head(path: str, head: HeadFile, engine: TargetEngine) -> None:
    """Raise HeadRefused unless the target has the states that a head reads."""
    try:
        _, (states,) = engine.extend_with_states([(Extent(0, engine.rows), Span(0, (0,), wanted=(0,)))])
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise HeadRefused(f"{path} cannot be used: {' '.join(str(error).split())}") from error
    if states.shape[1] != head.manifest.target_width:
        raise HeadRefused(
            f"{path} reads states of {head.manifest.target_width} numbers, and the target's have {states.shape[1]}; "
            "train a head for this target"
        )


def _warm_up(engine: TargetEngine, vocabulary: int, positions: int) -> None:
    """Run one pass that chooses a token at each of so many positions, as far as the engine has them."""
    count = min(positions, engine.context_tokens, engine.rows)
    span = Span(0, (0,) * count, wanted=tuple(range(count)))
    (logits,) = engine.extend([(Extent(0, engine.rows), span)])
    choose_batch(logits, [(Sampling(1.0, top_p=0.9), range(1, count + 1), None)], vocabulary, 1.0)


def _memory_bytes(device: torch.device) -> int:
    """Return what the pool may take; on a GPU the warm-up's memory stays with PyTorch for the passes to come."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE)
    return int(host_memory_bytes() * _HOST_SHARE)


def _drafter(load: Load, target: Target) -> EdgeDrafter | None:
    if load.draft_model == "none":
        return None
    drafter = load_drafter(
        load.draft_model,
        target,
        device=load.device,
        dtype=load.dtype,
        sessions=load.max_sessions,
        manifest=_draft_manifest(load),
    )
    drafter.draft([DraftItem(0, Sampling(), (0,), 1)])  # it takes its memory before the pool is measured
    drafter.forget([0])
    return drafter


def _root(load: Load) -> Path:
    return root_of(local_folder(load.model, Role.TARGET, revision=load.revision))


def _draft_manifest(load: Load) -> str | None:
    """Return the text of the manifest that lists the drafter. Raises CheckpointRefused where there should be one."""
    if load.manifest is None or load.draft_manifest is not None or load.draft_model == "ngram":
        return load.draft_manifest
    if root_of(local_folder(load.draft_model, Role.DRAFTER)) != _root(load):
        raise CheckpointRefused(
            f"the manifest of {load.model} does not list the drafter {load.draft_model}; name its own with "
            "--edge-draft-manifest, or take --edge-draft-model ngram"
        )
    return load.manifest


def loaded_of(target: Target, engine: TargetEngine, scratch_rows: int = 0) -> Loaded:
    """Return what the front must know of an engine that has run a pass; its last rows may be kept from the front."""
    return Loaded(
        name=target.name,
        model_digest=target.model_digest,
        tokenizer_digest=tokenizer_digest(target.tokenizer_json),
        tokenizer_json=target.tokenizer_json,
        chat_template=target.chat_template,
        stop_ids=target.stop_ids,
        vocabulary=target.vocabulary,
        context_tokens=target.context_tokens,
        numerics=engine.numerics,
        rows=engine.rows - scratch_rows,
        row_bytes=engine.row_bytes,
    )
