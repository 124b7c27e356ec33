"""The devices of a soak: each asks for one known text after the other, and what it writes is compared as it comes."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGABRT

from bench.soak_processes import Log, Record, Road
from bench.stub_model import Text
from device_client.journal_lines import CommitRecord, is_whole, read_record

PATIENCE_S = 120.0
"""How long a device may be silent past its own deadline."""

LEAST_TOKENS = 64
"""Of an answer, and of what is left when an interrupt still means something."""

EXCUSES = ("resumed", "restarted", "gave_up", "unmet")
"""Why processes ended before their text was whole."""

_GIVEN_UP = 3  # exit code of the device client


@dataclass(frozen=True, slots=True)
class Wish:
    """One answer that a device is asked for."""

    text: Text
    tokens: int
    options: tuple[str, ...]
    edges: tuple[str, ...]
    reconnect_s: float
    shown: bool  # text on standard output as it comes, no JSON


class Wrong(Exception):
    """What must never be; the text says what."""


class Watch:
    """Compares what one device journals and prints with the known text."""

    def __init__(self, device: int, journal: Path, wish: Wish, record: Record) -> None:
        self.journalled = 0  # tokens
        self.grew_s = record.now_s
        self.fresh = True  # nothing was journalled by the process that runs now
        self._device, self._journal, self._wish, self._record = device, journal, wish, record
        self._truth = wish.text.shown(wish.tokens)
        self._read_bytes = 0
        self._printed = ""

    def begin(self) -> None:
        """Expect a new process to print everything from the beginning."""
        self._printed, self.grew_s, self.fresh = "", self._record.now_s, True

    def look(self) -> None:
        """Read what is new in the journal. Raises Wrong."""
        if not self._journal.exists():
            return
        before = self.journalled
        with self._journal.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not is_whole(line):
                    break
                record = read_record(line) if self._read_bytes else None  # the first line is no record
                self._read_bytes += len(line)
                if isinstance(record, CommitRecord):
                    self._take(record)
        if self.journalled > before:
            self._grew(self._record.now_s)

    def _grew(self, now_s: float) -> None:
        if not self.fresh:
            self._record.gaps.append((now_s - self.grew_s, self._device, now_s))
        self.grew_s, self.fresh = now_s, False

    def _take(self, record: CommitRecord) -> None:
        at = record.base - len(self._wish.text.prompt_ids)
        if at != self.journalled:
            raise Wrong(f"a commit at {at} after {self.journalled}")
        self.check(record.ids, at)
        self.journalled += len(record.ids)

    def check(self, ids: Sequence[int], at: int = 0) -> None:
        """Compare ids from ``at`` on. Raises Wrong; a near tie says so."""
        for index, token in enumerate(ids, start=at):
            if index >= self._wish.tokens or token != self._wish.text.ids[index]:
                tie = index < self._wish.tokens and self._wish.text.near_tie(index)
                raise Wrong(f"{'near tie: ' if tie else ''}token {index} is {token}, not as the target writes it")

    def prints(self, text: str) -> None:
        """Take what was printed. Raises Wrong where it is not the text's beginning, or not journalled yet."""
        self._printed += text
        if not self._truth.startswith(self._printed.removesuffix("\n")):
            raise Wrong(f"printed text differs near character {len(self._printed)}")
        self.look()
        if len(self._printed.split()) > self.journalled:
            raise Wrong("printed before it was journalled")

    def is_complete(self, output: str) -> None:
        """Check the last process's whole output. Raises Wrong."""
        self.look()
        if self.journalled != self._wish.tokens:
            raise Wrong(f"ended with {self.journalled} of {self._wish.tokens} tokens")
        if self._wish.shown:
            if output != self._truth + "\n":
                raise Wrong("the printed text is not the whole text")
            return
        report = json.loads(output)
        self.check(report["ids"])
        if (report["text"], report["stop"]) != (self._truth, "max_tokens"):
            raise Wrong("the report's text or stop is wrong")


class Device:
    """Asks for one known text after the other, each until it is whole, whatever happens on the way."""

    def __init__(self, index: int, folder: Path, drafter: Path, roads: Sequence[Road], record: Record) -> None:
        self.index, self.roads = index, roads
        self.process: Process | None = None
        self.watch: Watch | None = None
        self.wish: Wish | None = None
        self.allowed: set[int] = set()  # exit codes that a fault explains
        self._folder, self._drafter, self._record = folder, drafter, record
        self._log = Log(folder / f"device-{index}.log", record)  # one a text
        self._asked = 0

    @property
    def left_tokens(self) -> int:
        """Return how many tokens the running process, once it has brought one, still has to bring."""
        if self.watch is None or self.wish is None or self.watch.fresh:
            return 0
        return self.wish.tokens - self.watch.journalled

    async def run(self, texts: Sequence[Text], until_s: float, random: Random) -> None:
        """Go on until the time is over, then finish."""
        while self._record.now_s < until_s:
            self._asked += 1
            began_s = self._record.now_s
            self.wish = self._wished(texts, random)
            self._record.counts["generations"] += 1
            try:
                await self._answer(self.wish)
                self._record.counts["tokens"] += self.wish.tokens
            except (Wrong, ValueError, KeyError) as wrong:
                near = str(wrong).startswith("near tie")
                self._record.counts["near_ties" if near else "mismatches"] += 1
                self._explain(str(wrong), began_s)
            except Gone as gone:
                self._record.counts["exit_faults"] += 1
                self._explain(str(gone), began_s)

    def _wished(self, texts: Sequence[Text], chance: Random) -> Wish:
        text = chance.choice(texts)
        tokens = chance.randint(min(LEAST_TOKENS * 4, len(text.ids) // 2), len(text.ids))
        sampling = text.sampling
        drafter = chance.choices(["ngram", str(self._drafter)], [6, 1])[0]
        edges = [road.relay.address for road in self.roads]
        chance.shuffle(edges)
        options = {
            "--max-tokens": tokens,
            "--draft-model": drafter,
            "--draft-length": chance.choice((0, 1, 2, 4, 4, 8, 16)),
            "--seed": sampling.seed,
            "--temperature": sampling.temperature,
            "--top-k": sampling.top_k,
            "--top-p": sampling.top_p,
            "--min-p": sampling.min_p,
            "--repetition-penalty": sampling.repetition_penalty,
            "--presence-penalty": sampling.presence_penalty,
            "--frequency-penalty": sampling.frequency_penalty,
        }
        words = tuple(word for name, value in options.items() for word in (name, str(value)))
        return Wish(text, tokens, words, tuple(edges), chance.choice((10.0, 60.0, 120.0)), shown=chance.random() < 0.35)

    @property
    def journal(self) -> Path:
        return self._folder / f"device-{self.index}-{self._asked}.journal"

    def _command(self, wish: Wish) -> list[str]:
        common = ["--reconnect-seconds", str(wish.reconnect_s), *([] if wish.shown else ["--json"])]
        common += [word for edge in wish.edges for word in ("--edge", edge)]
        if self.journal.exists():
            return ["device_client", "resume", str(self.journal), *common]
        return ["device_client", "generate", "-", "--journal", str(self.journal), *wish.options, *common]

    async def _answer(self, wish: Wish) -> None:
        """Run processes until one has ended with the whole text. Raises Wrong, Gone."""
        self.watch = Watch(self.index, self.journal, wish, self._record)
        self._log = Log(self.journal.with_suffix(".log"), self._record)
        while True:
            began_s, resumed = self._record.now_s, self.journal.exists()
            code, output = await self._attempt(wish, self.watch)
            if code == 0:
                self.watch.is_complete(output)
                return
            self._record.counts[self._excuse(code, began_s, wish, resumed=resumed)] += 1

    def _excuse(self, code: int, began_s: float, wish: Wish, *, resumed: bool) -> str:
        """Return what makes an exit code a right one. Raises Gone."""
        has_text, now_s = self.journal.exists(), self._record.now_s
        if code in self.allowed:
            return "resumed" if has_text else "restarted"
        # A process that resumes has no edge to begin with, so its time begins with itself.
        waited_s = now_s - (began_s if resumed else self._log.waits_since_s)
        if code == _GIVEN_UP and has_text and waited_s >= wish.reconnect_s - 1.0:
            return "gave_up"
        if code == _GIVEN_UP and not has_text and self._record.hitting(self.index, began_s, now_s):
            return "unmet"  # before there is a text every edge is tried once
        raise Gone(f"exit code {code}, {waited_s:.1f} s after it lost its edge; it may try for {wish.reconnect_s:g} s")

    async def _attempt(self, wish: Wish, watch: Watch) -> tuple[int, str]:
        """Run one process to its end; return its exit code and its output. Raises Wrong, Gone."""
        self.allowed = set()
        watch.begin()
        self._log.waits_since_s = float("inf")
        async with self._log.program(*self._command(wish), cache=self._folder / "cache") as self.process:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError, ConnectionResetError):
                self.process.stdin.write(wish.text.prompt.encode())
                self.process.stdin.close()
            reading = asyncio.create_task(_read(self.process, watch.prints if wish.shown else lambda _: None))
            try:
                await self._wait(reading, watch, wish.reconnect_s + PATIENCE_S)
                return await self.process.wait(), await reading
            finally:
                self.process = None
                reading.cancel()

    async def _wait(self, reading: asyncio.Task[str], watch: Watch, silence_s: float) -> None:
        while not reading.done():
            await asyncio.wait([reading], timeout=0.05)
            watch.look()
            if self._record.now_s - watch.grew_s > silence_s:
                assert self.process is not None
                self.process.send_signal(SIGABRT)  # its stacks go to the log
                await asyncio.wait([reading], timeout=5)
                raise Gone(f"silent for {silence_s:.0f} s and still running")

    def _explain(self, what: str, began_s: float) -> None:
        print(f"\nDEVICE {self.index}: {what}\n  journal {self.journal}\n  asked {self.wish and self.wish.options}")
        for fault in self._record.hitting(self.index, began_s, self._record.now_s):
            print(f"{fault.since_s:9.3f} to {fault.until_s:7.3f} {fault.kind} {fault.detail}")
        print(self._log.tail(), flush=True)


class Gone(Exception):
    """A device ended, or did not end, in a way that no fault explains."""


async def _read(process: Process, printed: Callable[[str], None]) -> str:
    assert process.stdout is not None
    output = b""
    while piece := await process.stdout.read(65536):
        output += piece
        printed(piece.decode())
    return output.decode()
