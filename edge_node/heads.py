"""Semantic heads on disk: a safetensors file whose metadata says what the head is for.

The file holds weights, calibration and risk table; ``edge_node train-head`` writes it, and the engine and the front
each read it. Nothing of it is believed: a file that is cut off, of wrong shapes, not finite or for another model is
refused with one line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from airdraft.core.meaning.head import Features, HeadTail
from airdraft.core.meaning.risk import RiskTable
from airdraft.manifest import Manifest

FORMAT = 1
METADATA_KEY = "airdraft_head"
SCALAR_COUNT = 6  # of ``airdraft.core.types.Evidence``
MAX_WIDTH = 1024  # of the first layer: it is computed for every swap of every pass
MAX_FILE_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 20  # JSON, which takes many times its size while it is read
MOST_NAME = 80  # characters: devices are told of heads by name

_TENSORS: dict[str, type[np.floating[Any]]] = {
    "target": np.float32, "bias": np.float32, "out": np.float32, "out_bias": np.float32,
    "calibration_x": np.float64, "calibration_y": np.float64,
    "thresholds": np.float64, "loss_upper95": np.float64, "loss_mean": np.float64,
}  # fmt: skip
_DRAFT: dict[str, type[np.floating[Any]]] = {"draft": np.float32}
_CHANNEL: dict[str, type[np.floating[Any]]] = {
    "channel": np.float32,
    "channel_mean": np.float32,
    "channel_scale": np.float32,
}

Tensors = dict[str, NDArray[Any]]
Kind = Literal["logistic", "mlp"]


class HeadRefused(ValueError):
    """The file is no head that may be used here; the text is one line that says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class HeadManifest:
    """What a head was trained for and how well it did; names, not numbers, decide where it is used."""

    name: str
    kind: Kind
    features: Features
    supervision: str  # calibrated or cost-aware
    target_digest: str  # hex of 32 bytes
    drafter_digest: str  # likewise; whose swaps the labels are of
    target_width: int  # d, of the target's states and embeddings
    draft_width: int  # of the drafter's states; 0 where the head reads none
    has_channel: bool
    task: str  # the check that the labels were made by
    draft_length: int  # of the rehearsal that the risk table is of
    labels: int  # all of them
    label_problems: int
    rollouts: int
    temperature: float  # of all rollouts but the first
    test_labels: int  # that neither weights nor calibration saw
    auc: float  # on these
    ece: float  # on these, ten bins of equal count
    table_problems: int  # of the risk table, that no label is of


@dataclass(frozen=True, slots=True, eq=False)
class HeadFile:
    """A head: the front's part, and the weights [H, 3 d + 6] that the engine multiplies the target's features by."""

    tail: HeadTail
    target: NDArray[np.float32]
    manifest: HeadManifest


def load_head(
    path: Path,
    *,
    model_digest: bytes | None = None,
    drafter_digest: bytes | None = None,
    manifest: Manifest | None = None,
) -> HeadFile:
    """Return a head from disk.

    model_digest    of the target that serves: another one's head is refused; None asks nothing
    drafter_digest  of the drafter that it shall judge, likewise
    manifest        that must list the file: its bytes are read once, compared, and used

    Raises HeadRefused, and CheckpointRefused where it is not the file that the manifest lists.
    """
    content = _content(path)
    if manifest is not None:
        manifest.demand(path, content)
    purpose, tensors = _read(path, content)
    _demand_digest(path, "target", purpose.target_digest, model_digest)
    _demand_digest(path, "drafter", purpose.drafter_digest, drafter_digest)
    try:
        return _built(purpose, tensors)
    except ValueError as error:
        raise HeadRefused(f"{path} is a broken head: {error}; train it again") from None


def save_head(path: Path, head: HeadFile) -> None:
    """Write a head; what stood at ``path`` is replaced in one step, or not at all."""
    tail = head.tail
    parts: dict[str, Any] = {
        "target": head.target, "bias": tail.bias, "out": tail.out, "out_bias": [tail.out_bias],
        "calibration_x": tail.calibration_x, "calibration_y": tail.calibration_y,
        "thresholds": tail.table.thresholds, "loss_upper95": tail.table.loss_upper95,
        "loss_mean": tail.table.loss_mean,
    }  # fmt: skip
    if tail.draft is not None:
        parts["draft"] = tail.draft
    if tail.channel is not None:
        parts |= {"channel": tail.channel, "channel_mean": tail.channel_mean, "channel_scale": tail.channel_scale}
    tensors = {name: np.ascontiguousarray(part, dtype=_dtypes(head.manifest)[name]) for name, part in parts.items()}
    manifest = json.dumps({"format": FORMAT, **asdict(head.manifest)}, sort_keys=True)
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(save(tensors, metadata={METADATA_KEY: manifest}))
    new.replace(path)


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise HeadRefused(f"{path} cannot be read (it is no file); name a file that train-head wrote")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > MAX_FILE_BYTES:
        raise HeadRefused(f"{path} is larger than any head; name a file that train-head wrote")
    return content


def _read(path: Path, content: bytes) -> tuple[HeadManifest, Tensors]:
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise HeadRefused(
            f"{path} cannot be read (a header of {header_bytes} bytes); name a file that train-head wrote"
        )
    try:
        tensors: Tensors = load(content)
    except KeyError as error:  # a type that numpy has not
        raise HeadRefused(f"{path} is a broken head: it has a tensor of type {error.args[0]}; train it again") from None
    except (SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from None
    header = json.loads(content[8 : 8 + header_bytes])  # JSON, or it would not have been loaded
    return _manifest(path, header.get("__metadata__", {}).get(METADATA_KEY)), tensors


def _unreadable(path: Path, error: Exception) -> HeadRefused:
    reason = " ".join(str(error).split())[:160]
    return HeadRefused(f"{path} cannot be read ({reason}); copy it again, or train it again")


def _manifest(path: Path, text: str | None) -> HeadManifest:
    if text is None:
        raise HeadRefused(f"{path} is no semantic head; name a file that train-head wrote")
    try:
        content = json.loads(text)
        version = content.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise HeadRefused(f"{path} has a broken manifest; train it again") from None
    if version != FORMAT:
        raise HeadRefused(f"{path} is a head of format {version}, and this version reads {FORMAT}; train it again")
    wanted = {item.name: item.type for item in fields(HeadManifest)}
    if content.keys() != wanted.keys() or not all(_is(wanted[name], value) for name, value in content.items()):
        raise HeadRefused(f"{path} has a manifest with other fields; train it again")
    if content["features"] not in get_args(Features) or content["kind"] not in get_args(Kind):
        raise HeadRefused(f"{path} is a {content['kind']!r} over {content['features']!r}; train it again")
    if len(content["name"]) > MOST_NAME or not content["name"].isprintable():
        raise HeadRefused(f"{path} has no name of {MOST_NAME} printable characters at most; train it again")
    return HeadManifest(**content)


def _is(kind: Any, value: object) -> bool:
    """Say whether a value read from JSON is of the type that a field's annotation names."""
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == ("str" if kind in ("Features", "Kind") else kind)


def _demand_digest(path: Path, whose: str, own: str, asked: bytes | None) -> None:
    if asked is not None and own != asked.hex():
        raise HeadRefused(
            f"{path} was trained for another {whose} (digest {own[:12]}…, here {asked.hex()[:12]}…); "
            f"train a head for this {whose}"
        )


def _dtypes(manifest: HeadManifest) -> dict[str, type[np.floating[Any]]]:
    """Return the tensors of a head and their types."""
    draft = _DRAFT if manifest.features == "draft+target" else {}
    return {**_TENSORS, **draft, **(_CHANNEL if manifest.has_channel else {})}


def _built(manifest: HeadManifest, tensors: Tensors) -> HeadFile:
    """Return the head. Raises ValueError where its tensors are not what the manifest says."""
    wanted = _dtypes(manifest)
    if tensors.keys() != wanted.keys():
        odd = sorted(tensors.keys() ^ wanted.keys())
        raise ValueError(f"it should have the tensors {', '.join(wanted)}, and differs in {odd[0]}")
    for name, dtype in wanted.items():
        if tensors[name].dtype != dtype:
            raise ValueError(f"{name} is of type {tensors[name].dtype}")
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} holds a number that is not finite")
    target, bias = tensors["target"], tensors["bias"]
    features = 3 * manifest.target_width + SCALAR_COUNT
    if target.ndim != 2 or target.shape[1] != features or not 1 <= len(target) <= MAX_WIDTH:
        raise ValueError(f"target weights of shape {list(target.shape)} for {features} features")
    if bias.shape != (len(target),) or tensors["out_bias"].shape != (1,):
        raise ValueError(f"a bias of shape {list(bias.shape)} for a width of {len(target)}")
    draft = tensors.get("draft")
    if (0 if draft is None else draft.shape[-1]) != manifest.draft_width:
        raise ValueError(f"its draft part is not for states of {manifest.draft_width} numbers")
    table = RiskTable(tensors["thresholds"], tensors["loss_upper95"], tensors["loss_mean"])
    channel = {name: tensors[name] for name in _CHANNEL if name in tensors}
    tail = HeadTail(
        name=manifest.name,
        features=manifest.features,
        bias=bias,
        out=tensors["out"],
        out_bias=float(tensors["out_bias"][0]),
        calibration_x=tensors["calibration_x"],
        calibration_y=tensors["calibration_y"],
        table=table,
        activation="relu" if manifest.kind == "mlp" else "identity",
        draft=draft,
        **channel,
    )
    return HeadFile(tail, target, manifest)
