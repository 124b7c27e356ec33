"""The journal of one generation: what a device that is killed, or loses power, goes on from.

A file of lines (``journal_lines``), only ever appended to. The first says what the session is (``Head``); each line
after it is an epoch about to be used or a commit (DESIGN §4, rules 1 and 9). It knows nothing of streams or models.

What is safe: a commit is one write, so it outlives the process from the moment ``committed`` returns. Epochs and the
stop are also forced to the disk, with all that was written before them. So a power loss can cost the commits since the
last epoch, never an epoch: the edge commits those tokens again, the same ones in exact sessions, perhaps others in
semantic ones. Where the disk lied about an epoch, the edge refuses it and names the highest it knows.

A torn end, lines that fail their checksum with none after them that passes, is what such an end leaves behind, and is
cut off when the journal is opened. A bad line before a good one is damage, and so is a line that is whole but does not
fit the text before it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from airdraft.core.types import StopReason
from device_client.journal_lines import (
    FORMAT_VERSION,
    MAX_LINE_BYTES,
    CommitRecord,
    EpochRecord,
    Head,
    NewerFormat,
    Record,
    head_line,
    is_whole,
    read_head,
    read_record,
    record_line,
)

__all__ = ["Head", "Journal", "JournalError"]


class JournalError(RuntimeError):
    """The journal cannot be used; the text is one line that says what is wrong and what to do."""


class Journal:
    """One journal, open for writing and locked; a context manager.

    epoch    highest written, 0 where there is none
    ids      committed, without the prompt
    receipt  the edge's word for the text up to here: of the last commit, empty where that had none
    stop     why the text ended; nothing is written after it
    """

    def __init__(self, path: Path, head: Head, file: int, size_bytes: int) -> None:
        """Use ``create`` or ``open``; ``file`` is a locked descriptor, and the journal's own from here on."""
        self.path = path
        self.head = head
        self.epoch = 0
        self.ids: list[int] = []
        self.receipt = b""
        self.stop: StopReason | None = None
        self._file = file
        self._size_bytes = size_bytes  # of the whole lines

    @classmethod
    def create(cls, path: Path, head: Head) -> Journal:
        """Make a journal that its owner alone can read, on the disk when this returns. Raises JournalError."""
        if os.path.lexists(path):
            raise _exists(path)
        try:
            line = head_line(head)
            return cls(path, head, _published(path, line), len(line))
        except ValueError as error:
            raise JournalError(f"cannot create {path}: {error}; give another, or go without a journal") from None
        except FileExistsError:  # made by another in the meantime
            raise _exists(path) from None
        except OSError as error:
            raise JournalError(
                f"cannot create {path}: {_reason(error)}; name a file in a folder that exists, can be written to and "
                "has room"
            ) from error

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open a journal to go on with it; cuts off a torn end. Raises JournalError."""
        try:
            with contextlib.ExitStack() as undo:
                file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
                undo.callback(os.close, file)
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise _no_journal(path)
                _lock(file)
                with os.fdopen(file, "rb", closefd=False) as reader:
                    journal = _replayed(path, reader, file)
                os.ftruncate(file, journal._size_bytes)
                undo.pop_all()
                return journal
        except BlockingIOError:
            raise JournalError(f"{path} is in use by another process; wait for it to end, or end it") from None
        except OSError as error:
            raise JournalError(
                f"cannot open {path}: {_reason(error)}; name a journal that can be written to"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock; closing twice does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def attaching(self, epoch: int) -> None:
        """Write an epoch before its first use; it is on the disk when this returns. Raises JournalError."""
        self._write(EpochRecord(epoch), sync=True)

    def committed(self, base: int, ids: Sequence[int], receipt: bytes, stop: StopReason | None) -> None:
        """Write a commit before it is shown or acked; the stop is on the disk when this returns.

        base     absolute position of the first id, the prompt counted: the length so far
        receipt  empty where the commit brought none

        Raises JournalError, and closes the journal: the file keeps what was written before.
        """
        self._write(CommitRecord(base, tuple(ids), receipt, stop), sync=stop is not None)

    def _write(self, record: Record, *, sync: bool) -> None:
        line = record_line(record)
        misfit = self._misfit(record)
        assert not misfit, misfit
        if self._file < 0:
            raise JournalError(f"{self.path} is closed; go on with it by 'device_client resume {self.path}'")
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fdatasync(self._file)
        except OSError as error:
            self._give_up()
            raise JournalError(
                f"cannot write {self.path}: {_reason(error)}; make room, then go on by "
                f"'device_client resume {self.path}'"
            ) from error
        self._take(record, len(line))

    def _give_up(self) -> None:
        """Cut off what a failed write left, where that still works, and close: nothing may follow a torn line."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._size_bytes)
        self.close()

    def _misfit(self, record: Record) -> str:
        """Say why a record cannot come next; empty where it can."""
        if self.stop is not None:
            return "a record after the stop"
        if isinstance(record, EpochRecord):
            return "" if record.epoch > self.epoch else f"epoch {record.epoch} after {self.epoch}"
        length = len(self.head.prompt) + len(self.ids)
        if record.base != length:
            return f"a commit at {record.base} where {length} is due"
        if not record.ids and record.stop is None:
            return "a commit of nothing"
        return "more ids than asked for" if len(self.ids) + len(record.ids) > self.head.max_tokens else ""

    def _take(self, record: Record, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if isinstance(record, EpochRecord):
            self.epoch = record.epoch
        else:
            self.ids.extend(record.ids)
            self.receipt = record.receipt
            self.stop = record.stop


# ---- files ----


def _published(path: Path, line: bytes) -> int:
    """Put a new file with one line in place, on the disk with its folder's entry; return its locked descriptor."""
    partial = path.parent / f".journal-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as undo:
        file = os.open(partial, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        undo.callback(os.close, file)
        try:
            _lock(file)
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
            _move_to_new(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        undo.callback(path.unlink)  # of no use to anyone where it may not outlast a power loss
        _sync_folder(path.parent)
        undo.pop_all()
        return file


def _move_to_new(partial: Path, path: Path) -> None:
    """Give a file its name unless that is taken: by a link, or where links are forbidden by taking the name first."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # Android's policy and FAT know no links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        partial.replace(path)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _lock(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _exists(path: Path) -> JournalError:
    return JournalError(f"{path} exists: go on with it by 'device_client resume {path}', or name another")


def _no_journal(path: Path) -> JournalError:
    return JournalError(f"{path} is not a journal, or its first line is damaged; name another file")


# ---- reading ----


def _replayed(path: Path, reader: BinaryIO, file: int) -> Journal:
    """Return the journal that the whole lines make up, in order."""
    journal: Journal | None = None
    bad = 0  # the first line that fails its checksum
    for number, line in enumerate(_lines(reader), start=1):
        if not is_whole(line):
            bad = bad or number
        elif bad:
            break
        elif journal is None:
            journal = Journal(path, _head_of_file(path, line), file, len(line))
        else:
            _replay(journal, line, number)
    else:
        if journal is not None:
            return journal
    if journal is None:
        raise _no_journal(path)
    raise _damage(path, bad, "its checksum does not match")


def _lines(reader: BinaryIO) -> Iterator[bytes]:
    while line := reader.readline(MAX_LINE_BYTES):
        yield line


def _head_of_file(path: Path, line: bytes) -> Head:
    try:
        return read_head(line)
    except NewerFormat as newer:
        raise JournalError(
            f"{path} was written by a newer airdraft: it is {newer}, this one reads {FORMAT_VERSION}; update"
        ) from None
    except ValueError as error:
        raise _damage(path, 1, str(error)) from None


def _replay(journal: Journal, line: bytes, number: int) -> None:
    try:
        record = read_record(line)
    except ValueError as error:
        raise _damage(journal.path, number, str(error)) from None
    if misfit := journal._misfit(record):
        raise _damage(journal.path, number, misfit)
    journal._take(record, len(line))


def _damage(path: Path, number: int, what: str) -> JournalError:
    return JournalError(f"{path} is damaged at line {number}: {what}; take a good copy of it, or generate anew")
