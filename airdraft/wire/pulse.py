"""One stream's ``Liveness`` on the running loop: it pings when that is due, and says once that the peer is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from airdraft.core.session import Liveness
from airdraft.core.types import DeviceFrame, EdgeFrame, Ping


class Pulse:
    """Listens as long as the ``with`` block around it; ``clock`` is the one that ``liveness`` began with."""

    def __init__(
        self, liveness: Liveness, ping: Callable[[int], None], gone: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.liveness = liveness
        self._ping, self._gone, self._clock = ping, gone, clock
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def looks_at(self) -> float:
        """Return when it looks next, by the loop's clock."""
        assert self._timer is not None
        return self._timer.when()

    def heard(self, frame: DeviceFrame | EdgeFrame) -> None:
        """Take note of a frame from the peer; its content is the session core's."""
        now = self._clock()
        self.liveness.heard(now)
        if isinstance(frame, Ping) and frame.ack:
            self.liveness.acked(frame.number, now)
            self._look_again()  # the limit may have shrunk, and the next look with it

    def ask(self) -> None:
        """Ping at once, for the round trip's sake."""
        self._ping(self.liveness.ask(self._clock()))

    def _look(self) -> None:
        match self.liveness.look(self._clock()):
            case "gone":
                self._timer = None
                self._gone()
                return
            case "ping":
                self._ping(self.liveness.ping_number)
            case "well":
                pass
        self._look_again()

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(0.0, self.liveness.next_look - self._clock())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)
