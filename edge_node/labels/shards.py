"""Labels on disk: a folder with a manifest and one file for each batch of problems, written when the batch is done."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_node.labels.problems import LabelsRefused, Problem
from edge_node.labels.search import Label

FORMAT = 1
_MANIFEST = "manifest.json"
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class LabelsManifest:
    """What a folder of labels is of; a search that goes on in it must be the same."""

    model: str
    draft_model: str
    target_digest: str  # hex
    drafter_digest: str
    prompts_digest: str  # of all prompts of the file
    problems: int  # in the file
    batch: int  # problems a shard
    rollouts: int
    temperature: float
    check: str
    max_tokens: int
    seed: int
    target_width: int
    draft_width: int
    format: int = FORMAT


class Labels(NamedTuple):
    """Labels as arrays over n swaps; ``digests`` names the problems that were searched, those without a swap too."""

    problem: NDArray[np.int32]  # [n] number in the prompt file
    position: NDArray[np.int32]  # [n]
    drafted: NDArray[np.int32]  # [n]
    choice: NDArray[np.int32]  # [n]
    harm: NDArray[np.float32]  # [n] in [0, 1]
    greedy_harm: NDArray[np.bool_]  # [n]
    features: NDArray[np.float16]  # [n, 3 d + 6]
    state: NDArray[np.float16]  # [n, d_D]
    digests: NDArray[np.uint8]  # [problems, 8]

    def prompts(self) -> set[bytes]:
        """Return the digests of the prompts."""
        return {row.tobytes() for row in self.digests}


def begin(folder: Path, manifest: LabelsManifest) -> set[int]:
    """Make the folder, or go on in it; return the numbers of the shards that it holds already.

    Raises LabelsRefused where its labels are of another search.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabelsRefused(f"{folder} cannot be written: {error}") from None
    path = folder / _MANIFEST
    if not path.exists():
        if any(folder.iterdir()):
            raise LabelsRefused(f"{folder} holds other files; name a new folder")
        path.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
        return set()
    held = read_manifest(folder)
    if odd := [name for name, value in asdict(held).items() if value != getattr(manifest, name)]:
        was, now = getattr(held, odd[0]), getattr(manifest, odd[0])
        raise LabelsRefused(
            f"{folder} holds labels with {odd[0]} {was}, and {now} is asked for; name a new folder, or ask for the same"
        )
    return {int(shard.stem.removeprefix("shard-")) for shard in _shards(folder)}


def read_manifest(folder: Path) -> LabelsManifest:
    """Return what the labels are of. Raises LabelsRefused."""
    try:
        content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        version = content.get("format")
        if version != FORMAT:
            raise LabelsRefused(f"{folder} holds labels of format {version}, and this version reads {FORMAT}")
        return LabelsManifest(**content)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LabelsRefused):
            raise
        raise LabelsRefused(f"{folder} is no folder of labels ({error}); name one that mine-labels wrote") from None


def write_shard(
    folder: Path, number: int, problems: Sequence[Problem], labels: Sequence[Label], widths: tuple[int, int]
) -> None:
    """Write a batch's labels in one step: a file is whole or not there.

    widths  of the features and of the drafter's states, for a batch without a swap
    """
    columns = {
        "problem": np.array([label.problem for label in labels], dtype=np.int32),
        "position": np.array([label.position for label in labels], dtype=np.int32),
        "drafted": np.array([label.drafted for label in labels], dtype=np.int32),
        "choice": np.array([label.choice for label in labels], dtype=np.int32),
        "harm": np.array([label.harm for label in labels], dtype=np.float32),
        "greedy_harm": np.array([label.greedy_harm for label in labels], dtype=np.bool_),
        "features": np.array([label.features for label in labels], dtype=np.float16).reshape(-1, widths[0]),
        "state": np.array([label.state for label in labels], dtype=np.float16).reshape(-1, widths[1]),
        "digests": np.frombuffer(b"".join(problem.digest for problem in problems), dtype=np.uint8).reshape(
            -1, _DIGEST_BYTES
        ),
    }
    new = folder / f"shard-{number:05d}.new"
    with new.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]
    new.replace(new.with_suffix(".npz"))


def read_labels(folder: Path) -> Labels:
    """Return all labels of a folder, by problem. Raises LabelsRefused."""
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in Labels._fields}
    for shard in _shards(folder):
        try:
            with shard.open("rb") as file, np.load(file, allow_pickle=False) as columns:
                for name, held in parts.items():
                    held.append(columns[name])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LabelsRefused(f"{shard} is broken ({error}); remove it and mine again") from None
    if not parts["harm"]:
        raise LabelsRefused(f"{folder} holds no labels yet; run mine-labels first")
    whole = {name: np.concatenate(held) for name, held in parts.items()}
    return Labels(**whole)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))
