"""Logs say what was raised and where, and nothing of what an exception says."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from airdraft.tracebacks import WordlessFormatter, kind_of, trace_of

SECRET = "telltale 201, 173"


def raises() -> None:
    raise KeyError(SECRET)


def chained() -> None:
    try:
        raises()
    except KeyError as error:
        raise RuntimeError(SECRET) from error


def caught(fails: Callable[[], None]) -> Exception:
    try:
        fails()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_kind_is_a_name_and_a_place() -> None:
    assert kind_of(caught(raises)).startswith("KeyError at test_tracebacks.py:")
    assert kind_of(KeyError(SECRET)) == "KeyError"


def test_a_trace_names_every_error_and_quotes_none() -> None:
    group = ExceptionGroup(SECRET, [caught(raises), caught(chained)])
    for error, names in (
        (caught(raises), ["KeyError", "in raises"]),
        (caught(chained), ["KeyError", "RuntimeError", "in chained", "and then:"]),
        (group, ["ExceptionGroup", "  | KeyError", "  | RuntimeError"]),
    ):
        told = trace_of(error)
        assert all(name in told for name in names), told
        assert "telltale" not in told


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """A logger whose lines can be read, and a handler before ours that keeps what it made of a record."""
    lines, logger = io.StringIO(), logging.Logger("asyncio")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    handler = logging.StreamHandler(lines)
    handler.setFormatter(WordlessFormatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger, lines


def test_a_record_with_an_exception_shows_where_it_was(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, lines = log
    logger.warning("a pass failed", exc_info=caught(chained))
    assert "WARNING a pass failed" in lines.getvalue()
    assert "in raises" in lines.getvalue()
    assert "telltale" not in lines.getvalue()


def test_the_event_loop_names_no_arguments(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, lines = log
    logger.error("Exception in callback took(%s)", SECRET, exc_info=caught(raises))
    assert "ERROR a callback or task failed" in lines.getvalue()
    assert "in raises" in lines.getvalue()
    assert "telltale" not in lines.getvalue()


CRASH = """
import asyncio, logging, os, sys, threading
from airdraft.command_line import application, run
from airdraft.tracebacks import log_to_stderr
app, told = application("x", "y"), os.environ["TOLD"]

def fails(*args): raise ValueError(told)

class Late:
    def __del__(self): raise KeyError(told)

async def loops():
    asyncio.get_running_loop().call_soon(fails, told)
    await asyncio.sleep(0)

@app.command()
def leave():
    log_to_stderr("x")
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    Late()
    asyncio.run(loops())
    logging.getLogger("y").info("%d", told)
    raise RuntimeError(told)

@app.command()
def other(): ...

sys.argv = ["x", "leave"]
run(app)
"""


def test_a_process_ends_without_words() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH], env={"TOLD": SECRET}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "telltale" not in done.stderr + done.stdout
    for name in ("ValueError", "KeyError", "RuntimeError", "a callback or task failed", "in leave"):
        assert name in done.stderr, done.stderr
