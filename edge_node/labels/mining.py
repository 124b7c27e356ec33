"""``edge_node mine-labels``: a file of prompts in, a folder of labels out; stopped and started again at will."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from airdraft.checkpoint import DEMO_FOLDERS, CheckpointRefused, Role
from airdraft.core.tokenizer_digest import tokenizer_digest
from edge_node.engine.evidence import SCALARS
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from edge_node.labels.checks import check_named
from edge_node.labels.problems import LabelsRefused, Problem, read_problems
from edge_node.labels.search import Pair, Settings, search
from edge_node.labels.shards import LabelsManifest, begin, write_shard

Say = Callable[[str], None]

_SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Mining:
    """What ``mine-labels`` was told."""

    model: str
    draft_model: str
    prompts: Path
    out: Path
    settings: Settings
    batch: int = 64
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1


def mine(mining: Mining, say: Say, clock: Callable[[], float] = time.monotonic) -> int:
    """Search all problems that the folder has no labels of; return how many labels were added.

    Raises LabelsRefused and CheckpointRefused.
    """
    if mining.settings.rollouts < 1 or mining.batch < 1 or not mining.settings.temperature >= 0:
        raise LabelsRefused("rollouts and batch are at least 1, and the temperature at least 0")
    problems = read_problems(mining.prompts)
    for problem in problems:
        check_named(problem, mining.settings.check)
    torch.set_num_threads(mining.threads)
    target, drafter = load_pair(mining.model, mining.draft_model, mining.device, mining.dtype)
    manifest = _manifest(mining, problems, target, drafter)
    done = begin(mining.out, manifest)
    pair = Pair(target, drafter, mining.batch, mining.settings.rollouts, room_of(target, problems, mining.settings))
    widths = 3 * manifest.target_width + len(SCALARS), manifest.draft_width
    batches = [number for number in range(-(-len(problems) // mining.batch)) if number not in done]
    if done:
        say(f"{mining.out} holds {len(done)} batches already")
    added, started, said = 0, clock(), clock()
    for count, number in enumerate(batches, 1):
        first = number * mining.batch
        part = problems[first : first + mining.batch]
        labels = search(pair, list(enumerate(part, first)), mining.settings)
        write_shard(mining.out, number, part, labels, widths)
        added += len(labels)
        if clock() - said > _SAY_EVERY_S or count == len(batches):
            said = clock()
            left_s = (said - started) / count * (len(batches) - count)
            say(f"{count} of {len(batches)} batches, {added} labels, {left_s:.0f} s to go")
    return added


def load_pair(model: str, draft_model: str, device: str, dtype: str) -> tuple[Target, Target]:
    """Return target and drafter; of the demo pair's drafters a name alone will do. Raises CheckpointRefused."""
    target = load_target(model, device=device, dtype=dtype)
    drafter = load_target(
        _demo_drafter(draft_model), device=device, dtype=dtype, max_context=target.context_tokens, role=Role.DRAFTER
    )
    if tokenizer_digest(drafter.tokenizer_json) != tokenizer_digest(target.tokenizer_json):
        raise CheckpointRefused(f"{draft_model} and {model} have different tokenizers; choose a drafter of its family")
    return target, drafter


def room_of(target: Target, problems: Sequence[Problem], settings: Settings, draft_length: int = 0) -> int:
    """Return the tokens that the longest prompt, an answer and a draft take."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(target.tokenizer_json)
    longest = max(len(one.ids) for one in tokenizer.encode_batch([problem.prompt for problem in problems]))
    return int(min(target.context_tokens, longest + settings.max_tokens + draft_length + 1))


def _demo_drafter(name: str) -> str:
    if name.startswith("drafter"):
        for folder in DEMO_FOLDERS:
            if (folder / name).is_dir():
                return str(folder / name)
    return name


def _manifest(mining: Mining, problems: Sequence[Problem], target: Target, drafter: Target) -> LabelsManifest:
    settings = mining.settings
    return LabelsManifest(
        model=mining.model,
        draft_model=mining.draft_model,
        target_digest=target.model_digest.hex(),
        drafter_digest=drafter.model_digest.hex(),
        prompts_digest=hashlib.blake2b(b"".join(one.digest for one in problems), digest_size=16).hexdigest(),
        problems=len(problems),
        batch=mining.batch,
        rollouts=settings.rollouts,
        temperature=settings.temperature,
        check=settings.check,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        target_width=width_of(target),
        draft_width=width_of(drafter),
    )


def width_of(model: Target) -> int:
    """Return how many numbers a state of the model has."""
    return int(model.model.config.get_text_config(decoder=True).hidden_size)
