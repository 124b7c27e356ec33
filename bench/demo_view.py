"""What the demo shows: a lane a schedule while they run, and a table of what each came to."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from airdraft.core.session import Committed, DeviceSession
from airdraft.wire.client import Traffic
from bench.schedules import Schedule
from device_client.display import CommittedText
from device_client.generation import Costs

FRAME_S = 0.1
LANES_A_ROW = 2
LATE_S = 0.002
"""Past this a pace counts as missed; a step of the drafter is 8 ms."""


@dataclass(slots=True)
class Lane:
    """One schedule as the user watches it; a generation's watcher and notice."""

    name: str
    done: bool = False
    prompt: str = ""
    text: str = ""
    answers: list[str] = field(default_factory=list)
    ahead: str = ""
    tokens: int = 0
    timed_tokens: int = 0  # those that came after the first commit of their answer
    seconds: float = 0.0  # that these took
    first_s: list[float] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    device_s: float = 0.0
    edge_s: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    late_s: list[float] = field(default_factory=list)  # by which the device's paced steps ended late
    waits_for: str = ""
    _decoder: CommittedText | None = None
    _began: float = 0.0
    _last: float | None = None  # when the last commit of this answer came

    def begin(self, prompt: str, tokenizer: Tokenizer) -> None:
        """Start the next answer."""
        self.prompt, self.text, self.ahead = prompt, "", ""
        self._decoder, self._began, self._last = CommittedText(tokenizer), time.perf_counter(), None

    def committed(self, event: Committed) -> None:
        """Turn committed text solid."""
        assert self._decoder is not None
        now = time.perf_counter()
        self.text += self._decoder.add(event.ids)
        self.tokens += len(event.ids)
        self.ahead = self.waits_for = ""
        if self._last is not None:
            self.timed_tokens += len(event.ids)
            self.seconds += now - self._last
        else:
            self.first_s.append(now - self._began)
        self._last = now

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show tentative text."""
        self.ahead = self._decoder.with_ahead(ahead) if self._decoder is not None and ahead else ""

    def waiting(self, reason: str) -> None:
        """Show what it waits for."""
        self.waits_for = f"reconnecting… {reason}"

    def back(self, edge: str, after_s: float) -> None:
        """Show nothing: the text goes on."""

    def end(self, session: DeviceSession, traffic: Traffic, costs: Costs) -> None:
        """Take an answer, and what it has cost."""
        self.answers.append(self.text)
        self.bytes_up, self.bytes_down = self.bytes_up + traffic.bytes_up, self.bytes_down + traffic.bytes_down
        self.device_s, self.edge_s = self.device_s + costs.draft_s, self.edge_s + costs.pass_s
        self.drafted_tokens += session.tally.drafted
        self.accepted_tokens += session.tally.accepted

    @property
    def tokens_per_s(self) -> float:
        """Return the rate after each answer's first commit; 0 before there is one."""
        return self.timed_tokens / self.seconds if self.seconds else 0.0

    def panel(self) -> Panel:
        """Return the lane as it stands."""
        body = Text.assemble((self.prompt + "\n", "italic"), self.text.lstrip("\n"), (self.ahead, "dim"))
        below = Text(self.waits_for, "yellow") if self.waits_for else Text()
        rate = f"{self.tokens_per_s:5.1f} tokens/s paced" + (" · done" if self.done else "")
        return Panel(Group(body, below), title=f"[b]{self.name}[/b]", subtitle=rate, height=11)


@asynccontextmanager
async def shown(lanes: Sequence[Lane], console: Console | None = None) -> AsyncIterator[None]:
    """Redraw the lanes side by side while the block runs, where there is a terminal to draw on."""
    console = console or Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        yield
        return
    with Live(console=console, auto_refresh=False) as live:

        async def redraw() -> None:
            while True:
                live.update(_side_by_side(lanes), refresh=True)
                await asyncio.sleep(FRAME_S)

        task = asyncio.create_task(redraw())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            live.update(_side_by_side(lanes), refresh=True)


def _side_by_side(lanes: Sequence[Lane]) -> Table:
    grid = Table.grid(expand=True)
    for _ in range(LANES_A_ROW):
        grid.add_column(ratio=1)
    for first in range(0, len(lanes), LANES_A_ROW):
        grid.add_row(*(lane.panel() for lane in lanes[first : first + LANES_A_ROW]))
    return grid


def summary(lanes: Sequence[Lane], schedules: Mapping[str, Schedule]) -> str:
    """Return a table of what each schedule came to, as lines of at most 100 characters."""
    alone = next(lane for lane in lanes if lane.name == "edge")
    head = (
        f"{'schedule':<10} {'tokens/s':>9} {'over edge':>10} {'first ms':>9} {'bytes up':>9} {'accepted':>9} "
        f"{'edge ms':>8} {'device ms':>10}"
    )
    lines = [head, f"{'':<10} {'paced':>9} {'':>10} {'':>9} {'a token':>9} {'':>9} {'a token':>8} {'a token':>10}"]
    for lane in lanes:
        share = f"{lane.accepted_tokens / lane.drafted_tokens:.0%}" if lane.drafted_tokens else "-"
        first_ms = 1000 * sorted(lane.first_s)[len(lane.first_s) // 2]
        lines.append(
            f"{lane.name:<10} {lane.tokens_per_s:>9.1f} {lane.tokens_per_s / alone.tokens_per_s:>10.2f} "
            f"{first_ms:>9.0f} {lane.bytes_up / lane.tokens:>9.1f} {share:>9} "
            f"{1000 * lane.edge_s / lane.tokens:>8.1f} {1000 * lane.device_s / lane.tokens:>10.1f}"
        )
    alike = all(lane.answers == alone.answers for lane in lanes)
    same = "The text is the same in all of them." if alike else "THE TEXTS DIFFER: this is a bug."
    late = [seconds > LATE_S for lane in lanes for seconds in lane.late_s]
    if late and sum(late) / len(late) > 0.05:
        same += f"\nThis machine was too busy to keep the device's pace in {sum(late) / len(late):.0%} of its steps."
    return "\n".join([*lines, "", *(f"{lane.name}: {schedules[lane.name].about}." for lane in lanes), same])
