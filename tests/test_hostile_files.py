"""Files that lie, in every place where one can be given: one line, nothing run, nothing huge taken.

The canary is a pickle whose reading would make a file. No name and no place lets it be read as one.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airdraft.checkpoint import CheckpointRefused, files_digest
from airdraft.manifest import read_manifest
from coordinator.__main__ import app as coordinator
from device_client.draft_stop import policy_of
from device_client.drafters.torch_model import load_torch_drafter
from device_client.journal import Journal, JournalError
from edge_node.engine.assembly import assemble
from edge_node.engine.loading import load_target
from edge_node.engine_messages import Load, LoadFailed
from edge_node.heads import HeadRefused, load_head, save_head
from edge_node.labels.problems import LabelsRefused
from edge_node.labels.shards import read_labels
from edge_node.labels.shards import read_manifest as read_label_manifest
from tests.checkpoints import edit_json, save
from tests.heads import head_by_gap
from tests.shapes import shape

PICKLES = (
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "adapter_model.bin",
    "model.pkl",
    "training_args.bin",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that is in order; to be copied."""
    return save(shape("llama"), tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


@pytest.fixture
def sung(tmp_path: Path) -> Path:
    """Where the canary would leave its file."""
    return tmp_path / "sung"


def canary(sung: Path) -> bytes:
    """Return a pickle, written by hand, that calls ``os.mkdir``: protocol 0, as every reader takes it."""
    return f"cposix\nmkdir\n(V{sung}\ntR.".encode()


def test_the_canary_sings(sung: Path) -> None:
    """What it would do if it were read: its operations name a call, and the call makes the folder."""
    lines = canary(sung).decode().split("\n")
    assert lines[:2] == ["cposix", "mkdir"]
    os.mkdir(lines[2].removeprefix("(V"))
    assert sung.exists()


def edge(folder: Path) -> None:
    load_target(str(folder), device="cpu")


def device(folder: Path) -> None:
    load_torch_drafter(str(folder), vocabulary=100)


LOADERS = {"edge": edge, "device": device}
every_loader = pytest.mark.parametrize("loader", LOADERS)


def refusal(act: Callable[[], Any], *kinds: type[Exception]) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(kinds) as refused:
        act()
    message = str(refused.value)
    assert "\n" not in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB
    return message


# ---- pickles ----


@every_loader
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_beside_the_weights_is_not_read(folder: Path, sung: Path, loader: str, name: str) -> None:
    (folder / name).write_bytes(canary(sung))
    LOADERS[loader](folder)
    assert not sung.exists()


@every_loader
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_place_of_the_weights_is_refused(folder: Path, sung: Path, loader: str, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(canary(sung))
    assert "safetensors" in refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
    assert not sung.exists()


@every_loader
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_the_configuration_names_is_refused(folder: Path, sung: Path, loader: str, name: str) -> None:
    """transformers reads adapter_model.bin by torch.load where ``transformers_weights`` names it."""
    (folder / name).write_bytes(canary(sung))
    edit_json(folder / "config.json", transformers_weights=name)
    assert "transformers_weights" in refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    edit_json(folder / "config.json", transformers_weights="other.safetensors")  # not those that the digest is of
    refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
    assert not sung.exists()


@every_loader
@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        "index",
    ],
)
def test_a_pickle_by_the_name_of_another_file_is_refused(folder: Path, sung: Path, loader: str, name: str) -> None:
    if name == "index":
        (folder / "model.safetensors").unlink()
        name = "model.safetensors.index.json"
    (folder / name).write_bytes(canary(sung))
    if loader == "device" and name == "tokenizer_config.json":
        LOADERS[loader](folder)  # where it is not even read
    else:
        refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
    assert not sung.exists()


@every_loader
def test_an_index_that_names_a_pickle_is_refused(folder: Path, sung: Path, loader: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(canary(sung))
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / name).write_text(json.dumps(index), encoding="utf-8")
        refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
        (folder / name).unlink()
    assert not sung.exists()


@every_loader
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "../other"}),
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Tiny"}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation": "someone/kernel:forward"}),
    ],
)
def test_what_would_lead_elsewhere_is_refused(folder: Path, loader: str, name: str, content: Any) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('run')", encoding="utf-8")
    if not (folder / name).exists():
        (folder / name).write_text("{}", encoding="utf-8")
    edit_json(folder / name, **content)
    refusal(lambda: LOADERS[loader](folder), CheckpointRefused)


def test_a_pickle_given_as_any_other_file_is_refused(folder: Path, sung: Path, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(canary(sung))
    refusal(lambda: load_head(path), HeadRefused)
    refusal(lambda: policy_of(f"mlp:{path}"), ValueError)
    refusal(lambda: Journal.open(path), JournalError)
    refusal(lambda: read_manifest(path), CheckpointRefused)
    for name, read in (("manifest.json", read_label_manifest), ("shard-00000.npz", read_labels)):
        (tmp_path / name).write_bytes(canary(sung))
        refusal(partial(read, tmp_path), LabelsRefused)
    failed = assemble(Load(str(folder), device="cpu", max_context=64, heads=(str(path),)), lambda _: None)
    assert isinstance(failed, LoadFailed)
    for model in (path, tmp_path / "pytorch_model.bin"):
        model.write_bytes(canary(sung))
        refusal(partial(load_target, str(model)), CheckpointRefused)
        refusal(partial(load_torch_drafter, str(model), vocabulary=100), CheckpointRefused)
    with pytest.raises(SystemExit) as ended:  # a log of rounds
        coordinator(["train-draft-length", str(path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert not sung.exists()


# ---- safetensors that lie ----

SHAPE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def made(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a file: a header's length, true unless told, the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


LIES = {
    "nothing": b"",
    "half a length": b"\x08\0\0",
    "a length alone": struct.pack("<Q", 8),
    "no header": made(b""),
    "a header past the end": made({"a": SHAPE}, bytes(8), 1 << 20),
    "a header of 99 MB": made({"a": SHAPE}, bytes(8), 99 << 20),
    "a huge header": made({"a": SHAPE}, bytes(8), 1 << 62),
    "the largest header": made({"a": SHAPE}, bytes(8), (1 << 64) - 1),
    "a header that is no JSON": made(b"{" * 64, bytes(8)),
    "a header of nested lists": made(b'{"a":' + b"[" * 100_000, bytes(8)),
    "a header that is no object": made(b"[1, 2, 3]", bytes(8)),
    "a header in no encoding": made(b"\xff" * 16, bytes(8)),
    "data that is missing": made({"a": SHAPE}),
    "data that nobody names": made({"a": SHAPE}, bytes(64)),
    "a shape larger than the data": made({"a": SHAPE | {"shape": [1 << 40]}}, bytes(8)),
    "a shape that overflows": made({"a": SHAPE | {"shape": [1 << 33, 1 << 33]}}, bytes(8)),
    "a shape below nothing": made({"a": SHAPE | {"shape": [-2]}}, bytes(8)),
    "offsets past the end": made({"a": SHAPE | {"data_offsets": [0, 1 << 40], "shape": [1 << 38]}}, bytes(8)),
    "offsets backwards": made({"a": SHAPE | {"data_offsets": [8, 0]}}, bytes(8)),
    "offsets below nothing": made({"a": SHAPE | {"data_offsets": [-8, 0]}}, bytes(8)),
    "offsets that overlap": made({"a": SHAPE, "b": SHAPE | {"data_offsets": [4, 12]}}, bytes(12)),
    "offsets of the same data": made({"a": SHAPE, "b": SHAPE}, bytes(8)),
    "offsets with a hole": made({"a": SHAPE, "b": SHAPE | {"data_offsets": [16, 24]}}, bytes(24)),
    "a type that there is not": made({"a": SHAPE | {"dtype": "PICKLE"}}, bytes(8)),
    "a type of another size": made({"a": SHAPE | {"dtype": "F64"}}, bytes(8)),
    "metadata that are no texts": made({"__metadata__": {"airdraft_head": 1}, "a": SHAPE}, bytes(8)),
}


@every_loader
@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie_are_refused(folder: Path, loader: str, lie: str) -> None:
    (folder / "model.safetensors").write_bytes(LIES[lie])
    refusal(lambda: LOADERS[loader](folder), CheckpointRefused)


@every_loader
@pytest.mark.parametrize("lie", ["nothing", "a huge header", "offsets that overlap", "a type of another size"])
def test_a_part_of_the_weights_that_lies_is_refused(folder: Path, loader: str, lie: str) -> None:
    header = _header(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    names = {name: "part-1.safetensors" for name in header if name != "__metadata__"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
    LOADERS[loader](folder)
    (folder / "part-2.safetensors").write_bytes(LIES[lie])
    names["model.norm.weight"] = "part-2.safetensors"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
    refusal(lambda: LOADERS[loader](folder), CheckpointRefused)


def _header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


@every_loader
@pytest.mark.parametrize("wrong", [{"shape": [64]}, {"shape": [1, 48]}, {"dtype": "PICKLE"}, {"dtype": "F64"}])
def test_a_tensor_of_another_shape_or_type_is_refused(folder: Path, loader: str, wrong: dict[str, Any]) -> None:
    path = folder / "model.safetensors"
    content, header = path.read_bytes(), _header(path)
    data = content[8 + int.from_bytes(content[:8], "little") :]
    header["model.norm.weight"] |= wrong
    path.write_bytes(made(header, data))
    refusal(lambda: LOADERS[loader](folder), CheckpointRefused)


@every_loader
def test_weights_that_are_cut_off_are_refused(folder: Path, loader: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for size in (1, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        refusal(lambda: LOADERS[loader](folder), CheckpointRefused)
    path.write_bytes(content)
    LOADERS[loader](folder)


@pytest.mark.parametrize("lie", LIES)
def test_heads_that_lie_are_refused(tmp_path: Path, lie: str) -> None:
    (tmp_path / "head.safetensors").write_bytes(LIES[lie])
    refusal(lambda: load_head(tmp_path / "head.safetensors"), HeadRefused)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "I32", "BOOL", "U16"])
def test_a_head_of_numbers_of_another_type_is_refused(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, head_by_gap())
    load_head(path)
    content, header = path.read_bytes(), _header(path)
    data = content[8 + int.from_bytes(content[:8], "little") :]
    size = {"F8_E4M3": 1, "BOOL": 1, "I32": 4}.get(dtype, 2)
    for name, entry in header.items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            header[name] = {"dtype": dtype, "shape": [(end - first) // size], "data_offsets": [first, end]}
    path.write_bytes(made(header, data))
    refusal(lambda: load_head(path), HeadRefused)


def test_a_head_that_is_no_file_or_has_no_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "sparse", Path("/dev/zero"), tmp_path / "none"):
        refusal(partial(load_head, path), HeadRefused)


def test_the_files_in_order_are_loaded(folder: Path, tmp_path: Path) -> None:
    for loader in LOADERS.values():
        loader(folder)
    path = tmp_path / "head.safetensors"
    save_head(path, head_by_gap(target=files_digest(folder), target_width=48))
    built = assemble(Load(str(folder), device="cpu", max_context=64, heads=(str(path),)), lambda _: None)
    assert not isinstance(built, LoadFailed)
