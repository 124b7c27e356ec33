"""Errors as a log may show them: what was raised and where, and nothing of what an exception says.

An exception that nobody foresaw may quote what it was at: ids of a prompt, bytes of a frame, a line of a file of keys.
Errors that are expected are lines of our own, and say nothing of the kind. Nor does a source line that a traceback
shows.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

EVENT_LOOP = "asyncio"


def kind_of(error: BaseException) -> str:
    """Say in a few words what was raised and where: ``KeyError at engine.py:120``."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "")


def trace_of(error: BaseException | None) -> str:
    """Return the tracebacks of an error and of those that it came from, the first cause first, without their words."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = [trace_of(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
        parts.append("".join([*traceback.format_tb(error.__traceback__), type(error).__qualname__, *_indented(inner)]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nand then:\n".join(reversed(parts))


class WordlessFormatter(logging.Formatter):
    """Formats records of any library so that no exception's words are in them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line, and under it where the exception came from, if it has one."""
        shown = logging.makeLogRecord(record.__dict__ | {"exc_text": None})
        if record.name == EVENT_LOOP and record.levelno >= logging.ERROR:
            shown.msg, shown.args = "a callback or task failed", ()  # it would name their arguments
        return super().format(shown)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        """Return a traceback without words."""
        return trace_of(ei[1])


def log_to_stderr(name: str) -> None:
    """Log on stderr from now on, every line behind a process's ``name``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WordlessFormatter(f"{name}: %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def hide_words() -> None:
    """Let what nobody catches be shown without words, whichever thread it ends. For a process's ``main`` alone."""
    logging.raiseExceptions = False  # a record that cannot be formatted would be shown with its arguments
    sys.excepthook = _crashed
    threading.excepthook = lambda args: show(args.exc_value)
    sys.unraisablehook = lambda args: show(args.exc_value)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    show(error)


def show(error: BaseException | None) -> None:
    """Print on stderr what nobody caught."""
    print(f"Traceback (most recent call last):\n{trace_of(error)}", file=sys.stderr, flush=True)  # noqa: T201


def _indented(parts: list[str]) -> list[str]:
    return ["\n  | " + part.replace("\n", "\n  | ") for part in parts]
