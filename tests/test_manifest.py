"""A manifest lets nothing be loaded but what it lists, bit for bit."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import airdraft.manifest
from airdraft.checkpoint import DEMO_FOLDERS, CheckpointRefused, files_digest
from airdraft.manifest import MAX_BYTES, Manifest, manifest_text, read_manifest, root_of
from device_client.drafters.torch_model import load_torch_drafter
from edge_node.config import EdgeSettings
from edge_node.engine.assembly import assemble
from edge_node.engine.loading import load_target
from edge_node.engine_messages import Load, LoadFailed
from edge_node.heads import load_head, save_head
from edge_node.server import EdgeServer
from tests.checkpoints import save
from tests.heads import head_by_gap
from tests.shapes import shape

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with all kinds of files; to be copied."""
    folder = save(shape("llama"), tmp_path_factory.mktemp("whole") / "tiny")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "heads").mkdir()
    head = head_by_gap(target=files_digest(folder), target_width=48)
    save_head(folder / "heads" / "own.safetensors", head)
    (folder / "README.md").write_text("read by nobody", encoding="utf-8")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Turn one bit of a file over, in place."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def load(folder: Path, manifest: str) -> None:
    load_target(str(folder), device="cpu", manifest=manifest)


def load_drafter(folder: Path, manifest: str) -> None:
    load_torch_drafter(str(folder), vocabulary=100, manifest=manifest)


def pin(folder: Path, manifest: str) -> None:
    with Manifest.of(manifest, folder).pinned(folder):
        pass


def refusal(folder: Path, manifest: str, act: Callable[[Path, str], None] = pin) -> str:
    with pytest.raises(CheckpointRefused) as refused:
        act(folder, manifest)
    message = str(refused.value)
    assert "\n" not in message
    return message


# ---- writing one ----


def test_it_lists_what_loading_may_read(folder: Path) -> None:
    listed = [line.split("  ", 1) for line in manifest_text(folder).splitlines()]
    assert [name for _, name in listed] == [
        *("additional_chat_templates/tools.jinja", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json", "heads/own.safetensors"),
    ]
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for digest, name in listed)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_sha256sum_reads_it_and_writes_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(manifest_text(folder), encoding="utf-8")
    done = subprocess.run(["sha256sum", "-c", "--strict", "--quiet", tmp_path / "list"], cwd=folder, check=False)
    assert done.returncode == 0
    names = ["./config.json", *(name for name in os.listdir(folder) if name.endswith((".safetensors", ".jinja")))]
    names += ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    names += ["additional_chat_templates/tools.jinja"]
    for options in ([], ["--binary"]):
        written = subprocess.run(
            ["sha256sum", *options, *names], cwd=folder, check=True, capture_output=True, text=True
        )
        pin(folder, written.stdout)


def test_the_demo_pair_has_one_for_both_ends_and_its_heads() -> None:
    root = root_of(DEMO_FOLDERS[0] / "target")
    assert root == root_of(DEMO_FOLDERS[0] / "drafter") == DEMO_FOLDERS[0]
    text = manifest_text(root)
    for name in ("target/model.safetensors", "drafter/tokenizer.json", "heads/drafter.safetensors"):
        assert f"  {name}\n" in text
    head = str(DEMO_FOLDERS[0] / "heads" / "drafter.safetensors")
    load = Load("demo", device="cpu", max_context=64, draft_model="demo", manifest=text, heads=(head,))
    assert not isinstance(assemble(load, lambda _: None), LoadFailed)
    assert load_torch_drafter("demo", vocabulary=300, manifest=text)
    wrong = text.replace(text[text.index("  drafter/model") - 64 :][:64], "0" * 64)
    refused = assemble(Load("demo", device="cpu", max_context=64, draft_model="demo", manifest=wrong), lambda _: None)
    assert isinstance(refused, LoadFailed)
    assert (refused.kind, "drafter/model.safetensors" in refused.message) == ("checkpoint", True)


def test_the_command_writes_one(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_node", "manifest"]
    printed = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True).stdout
    subprocess.run([*command, str(folder), "--out", str(tmp_path / "list")], check=True)
    assert printed == read_manifest(tmp_path / "list") == manifest_text(folder)
    done = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# ---- one bit ----


PLACES: dict[str, Callable[[int, int], int]] = {
    "first byte": lambda size, header: 0,
    "length of the header": lambda size, header: 3,
    "first byte of the header": lambda size, header: 8,
    "middle of the header": lambda size, header: 8 + header // 2,
    "last byte of the header": lambda size, header: 7 + header,
    "first number": lambda size, header: 8 + header,
    "middle": lambda size, header: (8 + header + size) // 2,
    "last byte": lambda size, header: size - 1,
}
LOADERS = {"edge": load, "device": load_drafter}


@pytest.mark.parametrize("loader", LOADERS)
def test_the_files_that_are_listed_are_loaded(folder: Path, loader: str) -> None:
    LOADERS[loader](folder, manifest_text(folder))
    assert load_target(str(folder), manifest=manifest_text(folder)).model_digest == files_digest(folder)
    assert load_target(str(folder), manifest=manifest_text(folder)).name == "tiny"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_flipped_bit_of_the_weights_is_refused(folder: Path, loader: str, place: str) -> None:
    manifest, weights = manifest_text(folder), folder / "model.safetensors"
    content = weights.read_bytes()
    flip(weights, PLACES[place](len(content), int.from_bytes(content[:8], "little")))
    assert "model.safetensors is not the file" in refusal(folder, manifest, LOADERS[loader])


@pytest.mark.parametrize("at", [0, 0.5, 1])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        "additional_chat_templates/tools.jinja",
    ],
)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_flipped_bit_of_any_other_file_is_refused(folder: Path, loader: str, name: str, at: float) -> None:
    manifest, path = manifest_text(folder), folder / name
    flip(path, round(at * (path.stat().st_size - 1)))
    message = refusal(folder, manifest, LOADERS[loader])
    assert name in message or "config.json" in message  # one that is no JSON any more is refused before


def test_a_flipped_bit_of_a_head_is_refused(folder: Path) -> None:
    text, head = manifest_text(folder), folder / "heads" / "own.safetensors"
    listed = Manifest.of(text, folder)
    assert load_head(head, manifest=listed).manifest.target_width == 48
    assert not isinstance(assembled(folder, text), LoadFailed)
    for at in (0, 20, head.stat().st_size // 2, head.stat().st_size - 1):
        flip(head, at)
        with pytest.raises(CheckpointRefused, match=r"own\.safetensors is not the file"):
            load_head(head, manifest=listed)
        refused = assembled(folder, text)
        assert isinstance(refused, LoadFailed)
        assert "own.safetensors" in refused.message
        flip(head, at)


def assembled(folder: Path, manifest: str) -> object:
    heads = (str(folder / "heads" / "own.safetensors"),)
    return assemble(Load(str(folder), device="cpu", max_context=64, heads=heads, manifest=manifest), lambda _: None)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whichever_bit_is_flipped_it_is_refused(folder: Path, data: st.DataObject) -> None:
    text = manifest_text(folder)
    names = [line.split("  ", 1)[1] for line in text.splitlines()]
    path = folder / data.draw(st.sampled_from(names))
    at, bit = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7))
    pin(folder, text)
    flip(path, at, bit)
    try:
        assert str(path) in refusal(folder, text)
    finally:
        flip(path, at, bit)


# ---- what is listed, and what is there ----


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "generation_config.json", "heads/own.safetensors"]
)
def test_a_listed_file_that_is_missing_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_text(folder)
    (folder / name).unlink()
    assert name in refusal(folder, manifest)


@pytest.mark.parametrize(
    "name",
    [
        *("added_tokens.json", "special_tokens_map.json", "vocab.txt", "spiece.model", "other.jinja"),
        *("model-00002.safetensors", "additional_chat_templates/more.jinja", "model.safetensors.index.json"),
    ],
)
def test_a_file_that_would_be_read_and_is_not_listed_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_text(folder)
    (folder / name).write_text("{}", encoding="utf-8")
    assert "not listed" in refusal(folder, manifest)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_a_line_that_is_left_out_is_refused(folder: Path, name: str) -> None:
    lines = [line for line in manifest_text(folder).splitlines(keepends=True) if not line.endswith(f" {name}\n")]
    assert name in refusal(folder, "".join(lines))


def test_what_nobody_reads_may_lie_there(folder: Path) -> None:
    manifest = manifest_text(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    with Manifest.of(manifest, folder).pinned(folder) as files:
        assert not (files / "pytorch_model.bin").exists()
        assert not (files / "README.md").exists()


BAD_LINES = {
    "another folder": "{digest}  ../tiny/config.json",
    "a folder on the way": "{digest}  heads/../config.json",
    "the root": "{digest}  /etc/hostname",
    "the folder itself": "{digest}  .",
    "a short digest": "abc  config.json",
    "a digest of something else": "{digest}00  config.json",
    "no hex": "zz{digest:.62}  config.json",
    "one space": "{digest} config.json",
    "a tab": "{digest}\tconfig.json",
    "no name": "{digest}  ",
    "an escaped name": "\\{digest}  a\\nb",
    "a name with a bell": "{digest}  a\x07b",
    "a carriage return": "{digest}  config.json\r",
    "a comment": "# made by hand",
    "a blank line": "",
    "a line of BSD": "SHA256 (config.json) = {digest}",
    "a line twice": "{digest}  config.json",
    "a line twice, in other words": "{digest}  ./config.json",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_none_is_refused_by_its_number(folder: Path, tmp_path: Path, name: str) -> None:
    good = manifest_text(folder)
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    line = BAD_LINES[name].replace("{digest:.62}", digest[:62]).replace("{digest}", digest)
    (tmp_path / "list").write_text(f"{good}{line}\n", encoding="utf-8", newline="")
    number = good.count("\n") + 1
    with pytest.raises(CheckpointRefused, match=f"list, line {number}: ") as refused:
        read_manifest(tmp_path / "list")
    assert "\n" not in str(refused.value)
    assert f"line {number}: " in refusal(folder, f"{good}{line}\n")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * (MAX_BYTES + 1), None])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(CheckpointRefused) as refused:
        read_manifest(tmp_path / "list")
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointRefused, match="manifest"):
        read_manifest(tmp_path)  # a folder


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_text(folder)
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to("../config.json")
    assert "link out" in refusal(folder, manifest)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    assert "config.json" in refusal(folder, manifest)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "no file" in refusal(folder, manifest)
    (folder / "config.json").unlink()
    (tmp_path / "config.json").rename(folder / "real")
    (folder / "config.json").symlink_to("real")
    pin(folder, manifest)


def test_the_hubs_cache_may_link_to_its_own_content(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "blobs").mkdir()
    (snapshot / "config.json").rename(snapshot.parents[1] / "blobs" / "abc")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    manifest = manifest_text(snapshot)
    pin(snapshot, manifest)
    (tmp_path / "outside").write_bytes((snapshot / "config.json").read_bytes())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../outside")
    assert "link out" in refusal(snapshot, manifest)


def test_a_head_elsewhere_and_a_drafter_that_is_not_listed_are_refused(folder: Path, tmp_path: Path) -> None:
    text = manifest_text(folder)
    shutil.copy(folder / "heads" / "own.safetensors", tmp_path / "own.safetensors")
    with pytest.raises(CheckpointRefused, match="lies outside"):
        load_head(tmp_path / "own.safetensors", manifest=Manifest.of(text, folder))
    shutil.copy(folder / "heads" / "own.safetensors", folder / "heads" / "more.safetensors")
    with pytest.raises(CheckpointRefused, match="not listed"):
        load_head(folder / "heads" / "more.safetensors", manifest=Manifest.of(text, folder))
    (folder / "heads" / "more.safetensors").unlink()
    drafter = Path(shutil.copytree(folder, tmp_path / "small"))
    asked = {"device": "cpu", "max_context": 64, "draft_model": str(drafter), "manifest": text}
    refused = assemble(Load(str(folder), **asked), lambda _: None)  # type: ignore[arg-type]
    assert isinstance(refused, LoadFailed)
    assert "--edge-draft-manifest" in refused.message
    built = assemble(Load(str(folder), **asked, draft_manifest=manifest_text(drafter)), lambda _: None)  # type: ignore[arg-type]
    assert not isinstance(built, LoadFailed)


# ---- between the check and the end of loading ----


def refusal_of_loading(folder: Path, while_loading: Callable[[Path], None]) -> str:
    def act(folder: Path, manifest: str) -> None:
        with Manifest.of(manifest, folder).pinned(folder) as files:
            while_loading(files)

    return refusal(folder, manifest_text(folder), act)


def test_a_file_that_is_replaced_after_the_check_is_not_seen(folder: Path) -> None:
    wanted = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}

    def replaced(files: Path) -> None:
        for name in wanted:
            (folder / "new").write_bytes(b"other")
            (folder / "new").replace(folder / name)
        assert {name: (files / name).read_bytes() for name in wanted} == wanted

    assert "was written while it was loaded" in refusal_of_loading(folder, replaced)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_written_in_place_while_it_is_loaded_is_refused(folder: Path, name: str) -> None:
    before = (folder / name).stat()

    def written(files: Path) -> None:
        flip(folder / name, 100)
        flip(folder / name, 100)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))  # that time can be set, not the change's

    assert f"{name} was written while it was loaded" in refusal_of_loading(folder, written)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loaded_model_shares_no_memory_with_its_files(loader: str) -> None:
    """On a CPU weights of the files' own type stay mapped, and would change with the file."""
    text = manifest_text(DEMO_FOLDERS[0])
    kept = (
        load_target("demo", device="cpu", dtype="float16", manifest=text)
        if loader == "edge"
        else load_torch_drafter("demo", vocabulary=300, dtype="float16", manifest=text)
    )
    assert kept
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(DEMO_FOLDERS[0]) not in maps


def test_nothing_is_left_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(airdraft.manifest, "SCRATCH", tmp_path / "scratch")
    before = set(os.listdir("/proc/self/fd"))
    with Manifest.of(manifest_text(folder), folder).pinned(folder) as files:
        assert files.parent == tmp_path / "scratch"
        assert files.stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "scratch").iterdir())
    assert set(os.listdir("/proc/self/fd")) == before


# ---- as the processes take it ----


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_node", "serve", "--port", "0", "--device", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
def test_an_edge_with_a_flipped_bit_does_not_start(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(manifest_text(folder), encoding="utf-8")
    flip(folder / "model.safetensors", -1)
    done = serve("--model", str(folder), "--manifest", str(tmp_path / "list"))
    assert done.returncode == 2
    assert "model.safetensors is not the file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.slow
async def test_an_edge_whose_files_are_listed_starts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(manifest_text(folder), encoding="utf-8")
    head = folder / "heads" / "own.safetensors"
    settings = EdgeSettings(
        port=0, model=str(folder), device="cpu", max_context=64, head=(str(head),), manifest=tmp_path / "list"
    )

    class Listening(Exception):
        pass

    def stop(address: str) -> None:
        raise Listening

    with pytest.raises(Listening):
        await EdgeServer(settings, lambda line: None).serve(stop)
    flip(head, 20)
    with pytest.raises(CheckpointRefused, match=r"own\.safetensors is not the file that .*list lists"):
        EdgeServer(settings, lambda line: None)
    with pytest.raises(CheckpointRefused, match="cannot read the manifest"):
        EdgeServer(settings.model_copy(update={"manifest": tmp_path / "none"}), lambda line: None)
