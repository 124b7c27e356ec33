"""Where a model lies and whether it is fit to be loaded: the demo pair, a folder, or a hub id.

Every reference ends as a local folder that holds a configuration without code and weights in safetensors; nothing here
imports torch. The hub's own cache and its variables (``HF_HUB_OFFLINE``, ``HF_HUB_CACHE``) hold as usual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
DEMO_FOLDERS = (_PACKAGE.parent / "models" / "demo", _PACKAGE / "demo_pair")
"""The demo pair in a checkout, and in an installed wheel."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
TEXTS = ("*.json", "*.jinja", "*.model", "*.txt")
_ATTENTION = ("attn_implementation", "_attn_implementation")
_VOLATILE = ("_name_or_path", "transformers_version")  # say who wrote the file, not what the model computes
_CHUNK_BYTES = 1 << 22


class CheckpointRefused(ValueError):
    """The model is not there or may not be loaded; the text is one line that says what is wrong and what to do."""


class Role(StrEnum):
    """What a model is for; ``demo`` names another folder for each."""

    TARGET = "target"
    DRAFTER = "drafter"


def local_folder(reference: str, role: Role, *, revision: str | None = None) -> Path:
    """Return the folder of a model that may be loaded; downloads what a hub id lacks in the hub's cache.

    reference  ``demo``, ``demo-target``, ``demo-drafter``, a folder, or a hub id; what starts with . / or ~ is a folder
    revision   branch, tag or commit of a hub id

    Raises CheckpointRefused.
    """
    if reference in ("demo", "demo-target", "demo-drafter"):
        folder = _demo_folder(role if reference == "demo" else Role(reference.removeprefix("demo-")))
    elif reference.startswith((".", "/", "~")) or Path(reference).exists():
        folder = Path(reference).expanduser()
    else:
        folder = _from_hub(reference, revision)
    check_folder(folder, reference)
    return folder


def check_folder(folder: Path, reference: str | None = None) -> None:
    """Raise CheckpointRefused unless the folder holds a configuration without code and safetensors weights."""
    name = reference or str(folder)
    if not folder.is_dir():
        raise CheckpointRefused(f"{name} is not a folder; give a model folder, a hub id such as org/name, or demo")
    read_config(folder, name)
    _object(folder / "generation_config.json", name)  # transformers passes over one that is broken: texts end elsewhere
    if (folder / "adapter_config.json").exists():
        raise CheckpointRefused(
            f"{name} holds an adapter (adapter_config.json), which may name another model to load; merge it into the "
            "weights first"
        )
    if weight_files(folder):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise CheckpointRefused(
            f"{name} has weights only as {pickles[0]}, a pickle, which can run code when it is read; "
            "save the model again with safetensors (save_pretrained does)"
        )
    raise CheckpointRefused(f"{name} has no safetensors weights (model.safetensors or its index); choose another model")


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return config.json. Raises CheckpointRefused where it is missing, broken, or names code of its own to run."""
    config = _object(folder / "config.json", name)
    if config is None:
        raise CheckpointRefused(f"{name} has no config.json; is it a model in the transformers layout?")
    if config.get("auto_map"):
        raise CheckpointRefused(
            f"{name} carries code of its own (auto_map in config.json), which is never run here; "
            "choose a model that transformers knows by itself"
        )
    if any("/" in str(config.get(key)) for key in _ATTENTION):
        raise CheckpointRefused(
            f"{name} asks for attention code from a hub (attn_implementation in config.json), which is never run here; "
            "take the entry out"
        )
    if config.get("transformers_weights"):
        raise CheckpointRefused(
            f"{name} names a file of weights of its own (transformers_weights in config.json); only model.safetensors "
            "and its index are read: rename the file and take the entry out"
        )
    return config


def _object(path: Path, name: str) -> dict[str, Any] | None:
    """Return what a JSON file holds, None where there is none. Raises CheckpointRefused."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{name} has a broken {path.name}: {error}; fetch the model again") from None
    if not isinstance(content, dict):
        raise CheckpointRefused(f"{name} has a {path.name} that is not an object; fetch the model again")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up the weights, by name; empty where there are none.

    Raises CheckpointRefused where the index is broken or names a file that is missing or outside the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointRefused(f"{index} is broken: {error!r}; fetch the model again") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file() or not name.endswith(".safetensors"):
            raise CheckpointRefused(f"{index} names {name!r}, which is no safetensors file beside it; fetch it again")
    return [folder / name for name in names]


def files_digest(folder: Path) -> bytes:
    """Return 32 bytes that identify the model in a folder: its configuration and its weights, by content.

    The same weights cut into other files are another model; who wrote the configuration does not count. Reads all
    weights once. Raises CheckpointRefused.
    """
    config = {key: value for key, value in read_config(folder, str(folder)).items() if key not in _VOLATILE}
    digest = blake2b(_canonical(config), digest_size=32)
    for path in weight_files(folder):
        content = blake2b(digest_size=32)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
        digest.update(content.digest())
    return digest.digest()


def stored_tokenizer(folder: Path) -> str | None:
    """Return the folder's tokenizer.json in the library's own spelling, or None where there is none.

    The file is read as it stands: transformers rebuilds it by the model's family, so that two models which share the
    file would not share the tokenizer. What cuts or fills texts is left out. Raises CheckpointRefused.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise CheckpointRefused(f"{path} is broken: {error}; fetch the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text: str = tokenizer.to_str()
    return text


def _canonical(content: Mapping[str, Any]) -> bytes:
    return blake2b(
        json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode(), digest_size=32
    ).digest()


def _demo_folder(role: Role) -> Path:
    for pair in DEMO_FOLDERS:
        if (pair / role).is_dir():
            return pair / role
    raise CheckpointRefused(f"the demo {role} is not installed; reinstall airdraft, or name a model folder or hub id")


def _from_hub(reference: str, revision: str | None) -> Path:
    """Return the hub's snapshot: the configuration first, so that what is refused for it is never downloaded."""
    read_config(_snapshot(reference, revision, ["config.json"]), reference)
    return _snapshot(reference, revision, ["*.safetensors", *TEXTS])


def _snapshot(reference: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise CheckpointRefused(
            f"{reference} is no folder here, and the hub needs {error.name}: pip install huggingface_hub"
        ) from None
    try:
        # Models lie at the top of a repository; below are other formats, and consolidated* repeats the weights.
        folder = snapshot_download(
            reference, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
        )
    except HFValidationError:
        raise CheckpointRefused(f"{reference} is neither a folder here nor a hub id such as org/name") from None
    except GatedRepoError:
        raise CheckpointRefused(f"{reference} asks for consent: give it on the hub, then hf auth login") from None
    except LocalEntryNotFoundError:
        raise CheckpointRefused(
            f"{reference} is not in the hub's cache and the hub is out of reach; "
            "go online once (unset HF_HUB_OFFLINE), or give a folder"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointRefused(f"the hub did not give {reference}: {reason}; check the name and the network") from None
    return Path(folder)
