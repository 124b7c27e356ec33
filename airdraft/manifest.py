"""A list of a model's files by SHA-256, and loading from nothing but what it lists.

Lines are those of ``sha256sum``, ``HEX  relative/path``, so that ``sha256sum -c`` reads them too; paths lie below one
folder, the *root*: the model's own, or that which holds the demo pair and its heads.

Between the check and the end of loading somebody could change a file. So files are opened once: small ones are copied
while they are hashed, and the copies are loaded; weights, too large for that, are mapped from the descriptor that was
hashed. A file that is replaced meanwhile is not seen, and one that is written in place is told by its times when
loading ends, and refused. Who loads copies weights out of the mapping before that, so that later writes reach no model.
What is left is a file that is cut short while it is mapped: that ends the process.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Self

from airdraft.checkpoint import DEMO_FOLDERS, TEXTS, CheckpointRefused, check_folder

MAX_BYTES = 4 << 20
"""Of a manifest: some 30,000 lines."""

SCRATCH: Path | None = None
"""Where small files are copied to, for the owner alone; None is the system's own."""

HEADS = "heads"
TEMPLATES = "additional_chat_templates"
_READ = (*TEXTS, "*.safetensors")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_CHUNK_BYTES = 1 << 20


def root_of(folder: Path) -> Path:
    """Return the folder that the paths of a model's manifest lie below; all of the demo pair have one manifest."""
    return folder.parent if folder.parent in DEMO_FOLDERS else folder


def manifest_text(root: Path) -> str:
    """Return the manifest of all that loading may read of a model: settings, tokenizer, templates, weights, heads.

    Raises CheckpointRefused, also where it would be empty or a name does not fit a line.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root in DEMO_FOLDERS else [root, root / HEADS]
    lines = []
    for path in (path for folder in folders for path in _readable(folder)):
        with _opened(path, root) as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(root).as_posix()}\n")
    text = "".join(lines)
    Manifest.of(text, root, f"the manifest of {root}")
    return text


def read_manifest(path: Path) -> str:
    """Return the text of a manifest. Raises CheckpointRefused where it is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise CheckpointRefused(f"cannot read the manifest {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CheckpointRefused(f"{path} is no manifest: it is no text; make one with: edge_node manifest") from None
    if len(content) > MAX_BYTES:
        raise CheckpointRefused(f"{path} is no manifest: it is larger than {MAX_BYTES >> 20} MiB")
    _digests(text, str(path))
    return text


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files below a folder that may be read, and their content."""

    source: str  # for messages
    root: Path
    digests: Mapping[str, bytes]  # SHA-256 by path below the root

    @classmethod
    def of(cls, text: str, root: Path, source: str = "the manifest") -> Self:
        """Return the manifest of a text. Raises CheckpointRefused, naming the line that is none."""
        return cls(source, root, _digests(text, source))

    def demand(self, path: Path, content: bytes) -> None:
        """Raise CheckpointRefused unless a file of this content is listed."""
        try:
            name = path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise CheckpointRefused(
                f"{path} lies outside {self.root}, whose files {self.source} lists; put it into {self.root / HEADS} "
                "and list it"
            ) from None
        if name not in self.digests:
            raise CheckpointRefused(f"{path} is not listed in {self.source}; list it, or leave it out")
        self._compare(path, hashlib.sha256(content).digest(), self.digests[name])

    @contextmanager
    def pinned(self, folder: Path) -> Iterator[Path]:
        """Give a folder of what is listed of ``folder``, the root or one below it, each file as it was hashed.

        Raises CheckpointRefused where a file differs, is missing, or would be read and is not listed; and at the end
        where one was written meanwhile.
        """
        names = self._names(folder)
        for path in _readable(folder):
            if path.relative_to(folder).as_posix() not in names:
                raise CheckpointRefused(
                    f"{path} would be read and is not listed in {self.source}; list it or remove it"
                )
        with ExitStack() as stack:
            copy = Path(stack.enter_context(TemporaryDirectory(prefix="airdraft-", dir=SCRATCH)))
            files: list[tuple[Path, BufferedReader, tuple[int, ...]]] = []
            for name, wanted in names.items():
                path = folder / name
                file = stack.enter_context(_opened(path, folder))
                files.append((path, file, _times(file)))
                self._compare(path, _brought(file, copy / name), wanted)
            check_folder(copy, str(folder))
            yield copy
            for path, file, times in files:
                if _times(file) != times:
                    raise CheckpointRefused(f"{path} was written while it was loaded; leave it alone and start again")

    def _names(self, folder: Path) -> dict[str, bytes]:
        """Return what is listed of a folder, by paths below it."""
        inside = folder.relative_to(self.root)
        return {
            PurePosixPath(name).relative_to(inside).as_posix(): digest
            for name, digest in self.digests.items()
            if PurePosixPath(name).is_relative_to(inside)
        }

    def _compare(self, path: Path, found: bytes, wanted: bytes) -> None:
        if found != wanted:
            raise CheckpointRefused(
                f"{path} is not the file that {self.source} lists (SHA-256 {found.hex()[:12]}…, listed "
                f"{wanted.hex()[:12]}…); fetch it again, or make another manifest if it was changed on purpose"
            )


def _digests(text: str, source: str) -> dict[str, bytes]:
    digests: dict[str, bytes] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        found = _LINE.fullmatch(line)
        if found is None or not found[2].isprintable():
            raise CheckpointRefused(f"{source}, line {number}: not 'SHA-256  path' as sha256sum writes it")
        path = PurePosixPath(found[2])
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise CheckpointRefused(f"{source}, line {number}: {found[2]} leaves the folder; list paths below it")
        if str(path) in digests:
            raise CheckpointRefused(f"{source}, line {number}: {path} is listed twice; keep one of the lines")
        digests[str(path)] = bytes.fromhex(found[1])
    return digests


def _readable(folder: Path) -> list[Path]:
    """Return the files of a folder that loading a model may read; heads are read by name alone."""
    found: Iterable[Path] = (path for pattern in _READ for path in folder.glob(pattern))
    return sorted(path for path in (*found, *(folder / TEMPLATES).glob("*.jinja")) if not path.is_dir())


@contextmanager
def _opened(path: Path, folder: Path) -> Iterator[BufferedReader]:
    """Open a file that lies below a folder, links followed. Raises CheckpointRefused."""
    # The hub's cache keeps content beside its snapshots, and links to it.
    home = folder.parents[1] if folder.parent.name == "snapshots" else folder
    try:
        if not path.resolve(strict=True).is_relative_to(home.resolve()):
            raise CheckpointRefused(f"{path} is a link out of {folder}; put the file itself there")
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointRefused(f"{path} is no file; put the file itself there")
            yield file
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else "links in a circle"
        raise CheckpointRefused(f"cannot read {path}, which the manifest lists: {reason}") from None


def _brought(file: BufferedReader, there: Path) -> bytes:
    """Bring a file to where it is loaded from; return its SHA-256."""
    there.parent.mkdir(exist_ok=True, parents=True)
    if there.suffix == ".safetensors":
        there.symlink_to(f"/proc/self/fd/{file.fileno()}")
        return hashlib.file_digest(file, "sha256").digest()
    digest = hashlib.sha256()
    with there.open("xb") as copy:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    return digest.digest()


def _times(file: BufferedReader) -> tuple[int, ...]:
    """Return what tells that a file was written; nobody can set the last of them back."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
