"""A timer for event loops that is right to a tenth of a millisecond. Linux only: it is a ``timerfd``.

asyncio's own timers wait with ``epoll``, which counts whole milliseconds and rounds up; they ring up to 1 ms late.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import time
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_Setting = ctypes.c_long * 4  # seconds and nanoseconds of the repetition, then of the first ring


class Alarm:
    """Calls ``ring`` once, some time after each ``set``, on the loop that runs."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._fd: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timerfd")
        self._loop.add_reader(self._fd, self._rang)

    def set(self, in_s: float) -> None:
        """Ring once in so many seconds, as soon as may be if they are none, never if they are inf."""
        whole, part = (0, 0) if in_s == math.inf else divmod(max(1, int(in_s * 1e9)), 1_000_000_000)
        _LIBC.timerfd_settime(self._fd, 0, _Setting(0, 0, whole, part), None)

    def close(self) -> None:
        """Never ring again; may be called twice."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _rang(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew after it rang
            return
        self._ring()
