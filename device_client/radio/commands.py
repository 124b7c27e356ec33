"""The output of another program, or one line that says why there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 5.0
"""Termux:API answers within 2 s; where its app is not installed it never does."""

BEHIND_PATH = ("/usr/sbin", "/sbin")
"""``iw`` lies where only an administrator's PATH looks."""


class SourceFailed(Exception):
    """A source has nothing to say; the text is one line that says why."""


def found(program: str) -> str | None:
    """Return a program's path, None where it is not installed."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *BEHIND_PATH)))


async def output(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """Return what a program prints, in the C locale. It and what it started are gone afterwards.

    Raises SourceFailed where it is absent, fails or takes too long.
    """
    program = found(command[0])
    if program is None:
        raise SourceFailed(f"{command[0]} is not installed")
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            program,
            *command[1:],
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Termux's commands are scripts: what they wait for must end with them
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:  # it may be at work already, though its pipes are not connected
        with contextlib.suppress(OSError):
            await _ended(await starting)
        raise
    except OSError as error:
        raise SourceFailed(f"{command[0]}: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(timeout_s):
            out, complaint = await process.communicate()
    except TimeoutError:
        raise SourceFailed(f"{command[0]} did not answer within {timeout_s:g} s") from None
    finally:
        await _ended(process)
    if process.returncode:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise SourceFailed(
            f"{command[0]} ended with status {process.returncode}" + "".join(f": {line}" for line in last)
        )
    return out.decode(errors="replace")


async def _ended(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # its group may outlive it: a script that ended before what it started
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it may not have had the time to begin a group
        await process.wait()


def read_json(text: str, program: str) -> Any:
    """Read a program's JSON. Raises SourceFailed where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SourceFailed(f"{program} printed no JSON") from None


def within(content: object, *keys: str) -> object:
    """Return what lies under a path of keys, None where it ends early."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
