"""Where models lie, and which are refused before a byte of their weights is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer

import airdraft.checkpoint
from airdraft.checkpoint import (
    CheckpointRefused,
    Role,
    check_folder,
    files_digest,
    local_folder,
    stored_tokenizer,
    weight_files,
)
from edge_node.engine.loading import load_target
from tests.checkpoints import edit_json, save
from tests.shapes import shape

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that is in order."""
    return save(shape("llama"), tmp_path / "tiny")


def refusal_of(reference: str, *, revision: str | None = None) -> str:
    with pytest.raises(CheckpointRefused) as refused:
        local_folder(reference, Role.TARGET, revision=revision)
    message = str(refused.value)
    assert "\n" not in message
    return message


# ---- references ----


def test_demo_names_a_folder_for_each_role() -> None:
    target, drafter = local_folder("demo", Role.TARGET), local_folder("demo", Role.DRAFTER)
    assert (target.name, drafter.name) == ("target", "drafter")
    assert local_folder("demo-drafter", Role.TARGET) == drafter
    assert local_folder("demo-target", Role.DRAFTER) == target


def test_an_installed_wheel_has_the_pair_beside_the_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, wheel = folder.parent / "models", folder.parent / "demo_pair"
    monkeypatch.setattr(airdraft.checkpoint, "DEMO_FOLDERS", (checkout, wheel))
    assert "not installed" in refusal_of("demo")
    shutil.copytree(folder, wheel / "target")
    assert local_folder("demo", Role.TARGET) == wheel / "target"
    assert "the demo drafter is not installed" in refusal_of("demo-drafter")


def test_paths_are_folders_and_never_asked_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for reference in (str(folder), "./tiny", "tiny", "~/tiny"):
        assert local_folder(reference, Role.TARGET).resolve() == folder
    for reference in (str(folder / "none"), "./none", "~/none", "tiny/config.json"):
        assert (
            refusal_of(reference)
            == f"{reference} is not a folder; give a model folder, a hub id such as org/name, or demo"
        )


# ---- refusals ----


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_weights_only_as_a_pickle_are_refused(folder: Path, pickle: str) -> None:
    (folder / pickle).write_bytes(b"\x80\x04")
    check_folder(folder)  # safetensors beside it: those are read
    (folder / "model.safetensors").unlink()
    message = refusal_of(str(folder))
    assert pickle in message
    assert "safetensors" in message


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no safetensors weights" in refusal_of(str(folder))


def test_code_in_the_checkpoint_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Tiny"})
    assert "auto_map" in refusal_of(str(folder))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_configuration_is_refused(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content, encoding="utf-8")
    assert "config.json" in refusal_of(str(folder))


@pytest.mark.parametrize("named", ["../out.safetensors", "gone.safetensors", "model.bin"])
def test_an_index_must_name_safetensors_beside_it(folder: Path, named: str) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder.parent / "out.safetensors").touch()
    (folder / "model.bin").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}), encoding="utf-8")
    assert weight_files(folder) == [folder / "part.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors", "b": named}}), encoding="utf-8")
    assert named in refusal_of(str(folder))
    index.write_text("{}", encoding="utf-8")
    assert "broken" in refusal_of(str(folder))


# ---- identity ----


def test_the_digest_knows_configuration_and_weights_by_content(folder: Path) -> None:
    first = files_digest(folder)
    assert len(first) == 32
    edit_json(folder / "config.json", transformers_version="0.0")  # also writes the keys anew, in another spelling
    (folder / "README.md").write_text("later", encoding="utf-8")
    assert files_digest(folder) == first
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    second = files_digest(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert len({first, second, files_digest(folder)}) == 3


# ---- tokenizer ----


def test_the_tokenizer_is_the_file_without_what_cuts_or_fills(folder: Path) -> None:
    stored = stored_tokenizer(folder)
    assert stored is not None
    tokenizer = Tokenizer.from_str(stored)
    assert tokenizer.encode("w3 w7 w9").ids == [3, 7, 9]
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert stored_tokenizer(folder) == stored
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointRefused, match="is broken"):
        stored_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    assert stored_tokenizer(folder) is None


# ---- hub ----


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub whose cache holds org/tiny; returns its snapshot."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_id_is_found_in_the_cache(hub: Path, revision: str | None) -> None:
    assert local_folder("org/tiny", Role.TARGET, revision=revision) == hub


@pytest.mark.usefixtures("hub")
def test_a_hub_id_is_loaded_under_its_name() -> None:
    assert load_target("org/tiny", device="cpu").name == "org/tiny"


def test_code_in_a_hub_model_is_refused(hub: Path) -> None:
    edit_json(hub / "config.json", auto_map={"AutoConfig": "configuration.Tiny"})
    assert "auto_map" in refusal_of("org/tiny")


@pytest.mark.usefixtures("hub")
def test_a_hub_model_that_is_not_there_says_what_to_do() -> None:
    assert "HF_HUB_OFFLINE" in refusal_of("org/other")
    assert "HF_HUB_OFFLINE" in refusal_of("org/tiny", revision="v2")


@pytest.mark.usefixtures("hub")
def test_a_name_that_no_hub_can_have_is_refused_as_such() -> None:
    assert "neither a folder here nor a hub id" in refusal_of("a/b/c")


# ---- weight of the import ----


def test_the_module_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, airdraft.checkpoint; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
