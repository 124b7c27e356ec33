"""What a journal keeps over kills, torn writes, flipped bits and full disks, and how it is made."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.types import StopReason
from device_client.journal import Journal
from tests.device_client.journals import (
    HEAD,
    PROMPT,
    STEPS,
    State,
    Step,
    begun,
    opened,
    opened_copy,
    refusal,
    state,
    take,
    write,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with begun(tmp_path / "j") as made:
        yield made


# ---- what is written is read ----


@given(STEPS, st.booleans())
@settings(max_examples=25)
def test_a_cut_at_any_byte_leaves_exactly_the_whole_lines(steps: list[Step], reopen: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, cut = Path(folder, "j"), Path(folder, "cut")
        sizes, states = write(path, steps, reopen)
        text = path.read_bytes()
        assert len(text) == sizes[-1]
        for end in range(sizes[0], len(text) + 1):
            cut.write_bytes(text[:end])
            whole = sum(size <= end for size in sizes)
            assert opened(cut) == states[whole - 1]
            assert cut.stat().st_size == sizes[whole - 1]


def test_a_cut_within_the_head_leaves_no_journal(journal: Journal) -> None:
    cut = journal.path.with_name("cut")
    head, *_ = journal.path.read_bytes().splitlines(keepends=True)
    for end in range(len(head)):
        cut.write_bytes(head[:end])
        assert "is not a journal" in refusal(lambda: Journal.open(cut))


@given(STEPS, st.data())
@settings(max_examples=25)
def test_a_journal_goes_on_after_a_cut_as_if_there_had_been_none(steps: list[Step], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        sizes, states = write(path, steps)
        text = path.read_bytes()
        end = data.draw(st.integers(sizes[0], len(text)))
        path.write_bytes(text[:end])
        with Journal.open(path) as journal:
            for step in steps[sum(size <= end for size in sizes) - 1 :]:
                take(journal, step)
            assert state(journal) == states[-1]
        assert path.read_bytes() == text


def after_flip(text: bytes, at: int) -> int | None:
    """Return how many whole lines stand before a flip that only the end of the file feels; None where it is damage."""
    lines = text.splitlines(keepends=True)
    number = text[:at].count(b"\n")
    joins_last = text[at : at + 1] == b"\n" and number == len(lines) - 2
    return number if number and (number == len(lines) - 1 or joins_last) else None


def check_flip(path: Path, text: bytes, at: int, bit: int, states: list[State]) -> None:
    flipped = bytearray(text)
    flipped[at] ^= 1 << bit
    path.write_bytes(flipped)
    left = after_flip(text, at)
    if left is not None:
        assert opened(path) == states[left - 1]
        return
    error = refusal(lambda: Journal.open(path))
    number = text[:at].count(b"\n") + 1
    assert f"damaged at line {number}: its checksum" in error if number > 1 else "is not a journal" in error


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    steps: list[Step] = [("epoch", 1), ("commit", [7], b"", None), ("commit", [8, 2], b"r", StopReason.STOP_TOKEN)]
    sizes, states = write(path, steps)
    text = path.read_bytes()
    for at in range(sizes[0] - 12, len(text)):
        for bit in range(8):
            check_flip(path, text, at, bit, states)


@given(STEPS, st.data())
@settings(max_examples=25)
def test_a_flipped_bit_anywhere_never_gives_wrong_values(steps: list[Step], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        _, states = write(path, steps)
        text = path.read_bytes()
        flips = st.tuples(st.integers(0, len(text) - 1), st.integers(0, 7))
        for at, bit in data.draw(st.lists(flips, min_size=1, max_size=40)):
            check_flip(path, text, at, bit, states)


@given(STEPS, st.binary(min_size=1, max_size=64))
@settings(max_examples=25)
def test_any_rubbish_at_the_end_is_cut_off(steps: list[Step], rubbish: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        sizes, states = write(path, steps)
        with path.open("ab") as file:
            file.write(rubbish)
        assert opened(path) == states[-1]
        assert path.stat().st_size == sizes[-1]


# ---- kills and locks ----

CHILD = """
import itertools, pathlib, sys
from device_client.journal import Journal
with Journal.open(pathlib.Path(sys.argv[1])) as journal:
    for count in itertools.count(1):
        journal.committed(len(journal.head.prompt) + len(journal.ids), (count, count * 3), b"", None)
        print(count, flush=True)
"""


@pytest.mark.parametrize("count", [1, 40, 900])
def test_what_a_killed_process_had_written_is_there(tmp_path: Path, count: int) -> None:
    path = tmp_path / "j"
    Journal.create(path, replace(HEAD, max_tokens=2**32 - 1)).close()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        try:
            for _ in range(count):
                assert child.stdout.readline()
            assert refusal(lambda: Journal.open(path)) == (
                f"{path} is in use by another process; wait for it to end, or end it"
            )
        finally:
            child.kill()
        rest = [text for text in child.stdout.read().split(b"\n") if text]
    told = count + len(rest)  # a last number that was cut short stands for a commit too
    with Journal.open(path) as journal:
        assert len(journal.ids) >= 2 * told
        assert journal.ids == [token for n in range(1, len(journal.ids) // 2 + 1) for token in (n, 3 * n)]
        journal.attaching(1)
    assert opened(path)[0] == 1


def test_one_journal_has_one_owner_until_it_is_closed(journal: Journal) -> None:
    assert "in use" in refusal(lambda: Journal.open(journal.path))
    journal.close()
    journal.close()
    assert opened(journal.path) == state(journal)
    assert "is closed" in refusal(lambda: journal.attaching(2))


def test_a_refused_file_is_let_go(tmp_path: Path, journal: Journal) -> None:
    journal.close()
    damaged = tmp_path / "damaged"
    head, epoch, commit = journal.path.read_bytes().splitlines(keepends=True)
    damaged.write_bytes(head + epoch + commit + epoch)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert "damaged at line 4: epoch 1 after 1" in refusal(lambda: Journal.open(damaged))
    assert len(os.listdir("/proc/self/fd")) == before


# ---- creation ----


def test_a_new_journal_is_private_and_leaves_nothing_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Journal.create(tmp_path / "j", HEAD).close()
    finally:
        os.umask(before)
    assert [file.name for file in tmp_path.iterdir()] == ["j"]
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o600


def forbid(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """Let one call to the system fail."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


def test_creation_does_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    with monkeypatch.context() as patch:
        forbid(patch, "link", errno.EACCES)
        with Journal.create(path, HEAD) as journal:
            assert "in use" in refusal(lambda: Journal.open(path))
            journal.attaching(3)
        patch.setattr(os.path, "lexists", lambda _: False)
        assert "exists" in refusal(lambda: Journal.create(path, HEAD))
    assert opened(path)[0] == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["j"]


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "made in the meantime"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_exists_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seen: bool
) -> None:
    path = tmp_path / "j"
    if kind == "file":
        path.write_text("a novel")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with monkeypatch.context() as patch:
        if not seen:
            patch.setattr(os.path, "lexists", lambda _: False)
        error = refusal(lambda: Journal.create(path, HEAD))
    assert error == f"{path} exists: go on with it by 'device_client resume {path}', or name another"
    assert kind != "file" or path.read_text() == "a novel"
    assert [file.name for file in tmp_path.iterdir()] == ["j"]


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        forbid(patch, call, errno.ENOSPC)
        error = refusal(lambda: Journal.create(tmp_path / "j", HEAD))
    assert "cannot create" in error
    assert "No space left" in error
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_cannot_be_synced_keeps_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert "cannot create" in refusal(lambda: Journal.create(tmp_path / "j", HEAD))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/j", "file/j"])
def test_a_place_that_takes_no_file_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / place
    assert f"cannot create {path}: " in refusal(lambda: Journal.create(path, HEAD))
    assert f"cannot open {path}: " in refusal(lambda: Journal.open(path))


def test_a_folder_that_cannot_be_written_is_named() -> None:
    path = Path("/proc/journal")  # not even root can make a file there
    assert f"cannot create {path}: " in refusal(lambda: Journal.create(path, HEAD))


# ---- what reaches the disk, and when ----


def test_epochs_and_the_stop_are_synced_and_commits_are_one_write(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_write, real_fdatasync = os.write, os.fdatasync

    def noted_write(file: int, text: bytes) -> int:
        calls.append("write")
        return real_write(file, text)

    def noted_fdatasync(file: int) -> None:
        calls.append("fdatasync")
        real_fdatasync(file)

    monkeypatch.setattr(os, "write", noted_write)
    monkeypatch.setattr(os, "fdatasync", noted_fdatasync)
    journal.attaching(2)
    assert calls == ["write", "fdatasync"]
    journal.committed(PROMPT + 2, (1,), b"", None)
    assert calls[2:] == ["write"]
    journal.committed(PROMPT + 3, (), b"", StopReason.MAX_TOKENS)
    assert calls[3:] == ["write", "fdatasync"]


def test_a_new_journal_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(file: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def noted_link(source: Path, target: Path) -> None:
        calls.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    Journal.create(tmp_path / "j", HEAD).close()
    assert calls == ["file", "name", "folder"]


def write_half(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """Let the next writes leave half of what they got, then fail with a code or tell how little it was."""
    real = os.write

    def half(file: int, text: bytes) -> int:
        written = real(file, text[: len(text) // 2])
        if code is not None:
            raise OSError(code, os.strerror(code))
        return written

    monkeypatch.setattr(os, "write", half)


@pytest.mark.parametrize("mends", [True, False], ids=["can be cut", "cannot be cut"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, None])
def test_a_write_that_fails_leaves_a_journal_that_opens(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, code: int | None, mends: bool
) -> None:
    before, size = state(journal), journal.path.stat().st_size
    with monkeypatch.context() as patch:
        write_half(patch, code)
        if not mends:
            forbid(patch, "ftruncate", errno.EIO)
        error = refusal(lambda: journal.committed(PROMPT + 2, (12, 13), b"", None))
    assert f"cannot write {journal.path}: {os.strerror(code or errno.ENOSPC)}" in error
    assert state(journal) == before
    assert (journal.path.stat().st_size == size) == mends
    assert "is closed" in refusal(lambda: journal.committed(PROMPT + 2, (12,), b"", None))
    with Journal.open(journal.path) as again:
        assert state(again) == before
        again.committed(PROMPT + 2, (12, 13), b"", None)
    assert opened(journal.path)[1] == (10, 11, 12, 13)


def test_an_epoch_that_may_not_be_on_the_disk_is_not_used(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        forbid(patch, "fdatasync", errno.EIO)
        assert "cannot write" in refusal(lambda: journal.attaching(2))
    assert journal.epoch == 1
    assert opened(journal.path)[0] == 1


def fill(journal: Journal) -> None:
    for count in range(1000):
        journal.committed(PROMPT + count, (count,), b"", None)


def test_a_file_that_may_grow_no_more_keeps_what_it_has(tmp_path: Path) -> None:
    """The system's own limit: a write past it is cut short, as on a full disk."""
    path = tmp_path / "j"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.create(path, replace(HEAD, max_tokens=10_000)) as journal:
        limit = path.stat().st_size + 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            assert "cannot write" in refusal(lambda: fill(journal))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        kept = state(journal)
    assert len(kept[1]) > 10
    assert limit - 60 < path.stat().st_size <= limit
    assert opened(path) == kept


# ---- our own bugs ----


@pytest.mark.parametrize(
    "act",
    [
        lambda journal: journal.attaching(1),
        lambda journal: journal.committed(PROMPT, (1,), b"", None),
        lambda journal: journal.committed(PROMPT + 3, (1,), b"", None),
        lambda journal: journal.committed(PROMPT + 2, (), b"", None),
        lambda journal: journal.committed(PROMPT + 2, (1,) * 63, b"", None),
    ],
    ids=["old epoch", "repeated commit", "gap", "nothing", "more than asked for"],
)
def test_a_record_that_does_not_fit_is_our_own_bug(journal: Journal, act: Callable[[Journal], None]) -> None:
    text = journal.path.read_bytes()
    with pytest.raises(AssertionError):
        act(journal)
    assert journal.path.read_bytes() == text


def test_nothing_follows_the_stop(journal: Journal) -> None:
    journal.committed(PROMPT + 2, (2,), b"last", StopReason.STOP_TOKEN)
    with pytest.raises(AssertionError, match="after the stop"):
        journal.attaching(2)
    with pytest.raises(AssertionError, match="after the stop"):
        journal.committed(PROMPT + 3, (), b"last", StopReason.STOP_TOKEN)
    journal.close()
    assert opened(journal.path) == (1, (10, 11, 2), b"last", StopReason.STOP_TOKEN)


def test_the_receipt_is_that_of_the_last_commit(journal: Journal) -> None:
    assert journal.receipt == b"word"
    journal.committed(PROMPT + 2, (12,), b"", None)
    assert journal.receipt == opened_copy(journal)[2] == b""
