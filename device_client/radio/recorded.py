"""A recorded trace in place of a radio: its facts, in the time since the first was asked for."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from airdraft.core.radio_facts import RadioFacts
from airdraft.link.radio_facts import RecordedSecond, ucc_5g_seconds
from device_client.radio.commands import SourceFailed


@dataclass(slots=True)
class Recorded:
    """``recorded:PATH``: a UCC 5G trace (docs/radio.md), over and over."""

    path: str = ""
    every_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    name: str = "recorded"
    _seconds: tuple[RecordedSecond, ...] = field(default=(), init=False)
    _began_s: float = field(default=0.0, init=False)

    def missing(self) -> str | None:
        return None if Path(self.path).is_file() else f"no file {self.path!r}; write recorded:PATH"

    async def read(self) -> RadioFacts:
        if not self._seconds:
            try:
                self._seconds = ucc_5g_seconds(Path(self.path))
            except (OSError, ValueError) as error:
                raise SourceFailed(str(error)) from None
            self._began_s = self.clock()
        course_s = self._seconds[-1].at_s + 1.0
        at_s = (self.clock() - self._began_s) % course_s
        return self._seconds[bisect_right(self._seconds, at_s, key=lambda second: second.at_s) - 1].facts

    async def close(self) -> None:
        pass
