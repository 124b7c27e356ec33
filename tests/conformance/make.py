"""``python -m tests.conformance.make``: write the kit anew. What git then shows is a change of behaviour."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance import scenes, vectors
from tests.conformance.kit import FOLDER, dumps


def texts() -> dict[str, str]:
    """Return the text of every file by its path inside the kit."""
    named = vectors.files() | {f"sessions/{name}": content for name, content in scenes.files().items()}
    return {name: dumps(content) for name, content in named.items()}


def write(folder: Path) -> int:
    """Write the kit, remove what is no longer of it, and return its size in bytes."""
    made = texts()
    for path in folder.rglob("*.json"):
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sum(len(text.encode()) for text in made.values())


if __name__ == "__main__":
    sys.stdout.write(f"proto/conformance: {write(FOLDER)} bytes\n")
