"""Radio facts as they come, for as long as somebody wants them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from airdraft.core.radio_facts import RadioFacts
from device_client.radio.commands import SourceFailed
from device_client.radio.sources import Source, opened

FAILURES = 3
"""So many readings in a row may fail, as when a modem changes its network; then a source is dropped."""


def _on_stderr(line: str) -> None:
    print(f"device_client: {line}", file=sys.stderr, flush=True)  # noqa: T201


async def watch(
    source: str | Sequence[Source] = "auto",
    every_s: float = 1.0,
    *,
    say: Callable[[str], None] = _on_stderr,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[RadioFacts, None]:
    """Yield what the radio says, every ``every_s`` seconds, dated by ``clock``; end when no source is left.

    source  a name of ``SOURCES``, with an argument or not, ``auto``, ``none``, or sources of the caller's own

    Of several sources the first that is not silent counts; where all are, silent facts come. A source that fails says
    why once and is dropped; nothing is raised but ValueError, for an unknown name. Close the iterator (``aclosing``)
    to end what a source has set up.
    """
    left = _there(opened(source, every_s) if isinstance(source, str) else source, say)
    held = tuple(left)
    failures: Counter[str] = Counter()
    try:
        while left:
            began_s = clock()
            facts = await _first(left, failures, say)
            if facts is not None:
                yield replace(facts, when_s=began_s)
            if left:
                await asyncio.sleep(max(0.0, every_s - (clock() - began_s)))
    finally:
        for each in held:
            with suppress(SourceFailed):
                await each.close()


def _there(sources: Sequence[Source], say: Callable[[str], None]) -> list[Source]:
    left = []
    for source in sources:
        if why := source.missing():
            say(f"no radio facts from {source.name}: {why}")
        else:
            left.append(source)
    return left


async def _first(left: list[Source], failures: Counter[str], say: Callable[[str], None]) -> RadioFacts | None:
    """Return the first facts that are not silent, else silent ones; None where every source failed.

    Takes out of ``left`` what has failed too often.
    """
    silent = None
    for source in tuple(left):
        try:
            facts = await source.read()
        except SourceFailed as failed:
            failures[source.name] += 1
            if failures[source.name] == FAILURES:
                say(f"no more radio facts from {source.name}: {failed}")
                left.remove(source)
            continue
        failures[source.name] = 0
        if not facts.silent:
            return facts
        silent = facts
    return silent
