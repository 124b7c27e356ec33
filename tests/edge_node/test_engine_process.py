"""The engine in a process of its own: what is asked is answered, and no end of that process hangs the front."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Sampling, Span
from edge_node.engine.process import BROKEN, leave_room
from edge_node.engine_messages import (
    PREFIX_BYTES,
    Answer,
    Ask,
    BadFrame,
    FrameSplitter,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    frame_length,
    framed,
    read_answer,
    read_ask,
)
from edge_node.engine_process import (
    Backoff,
    EngineChanged,
    EngineDied,
    EngineProcess,
    EngineRefused,
    Watch,
)
from edge_node.engine_thread import EngineThread
from edge_node.step import Drafted, DraftItem, DraftStep, Extent, Fill, Item, Outcome, Step, StepDone
from tests.checkpoints import save
from tests.edge_node.fake_engine import AGAIN, FAKE, GARBLE, HANG, MISNUMBER, OUTLAST, RAISE, step
from tests.shapes import shape

QUICK = Backoff(first_s=0.01, most_s=0.04)
WAIT_S = 60.0  # far past what any of it takes

Answered = StepDone | Drafted | Exception


@dataclass
class Heard:
    """What the front was told, in order."""

    events: asyncio.Queue[object] = field(default_factory=asyncio.Queue)

    def watch(self) -> Watch:
        return Watch(self.events.put_nowait, self.events.put_nowait, self.events.put_nowait)

    async def until(self, sign: Callable[[object], bool]) -> list[object]:
        """Return what was told up to and with the first event that is the one waited for."""
        told: list[object] = []
        async with asyncio.timeout(WAIT_S):
            while not told or not sign(told[-1]):
                told.append(await self.events.get())
        return told


@asynccontextmanager
async def running(load: Load | None = None, heard: Heard | None = None) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess((heard or Heard()).watch(), command=FAKE, backoff=QUICK)
    try:
        async with asyncio.timeout(WAIT_S):
            await engine.start(load or Load("fine"))
        yield engine
    finally:
        await engine.close()


def asked(engine: EngineProcess | EngineThread, message: Step | DraftStep) -> asyncio.Future[Answered]:
    future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
    engine.submit(message, future.set_result)
    return future


async def answer(waited: Awaitable[Answered]) -> Answered:
    async with asyncio.timeout(WAIT_S):
        return await waited


async def works(engine: EngineProcess) -> bool:
    done = await answer(asked(engine, step(99, 1, 2)))
    return isinstance(done, StepDone) and done.outcomes == (Outcome((1,)), Outcome((2,)))


# ---- the usual life ----


async def test_what_is_asked_is_answered_in_order() -> None:
    heard = Heard()
    async with running(Load("fine", max_context=77, kv_tokens=1234), heard) as engine:
        futures = [asked(engine, step(number, number)) for number in range(1, 50)]
        futures.append(asked(engine, DraftStep(50, (DraftItem(3, Sampling(), (5, 6), 2),))))
        answers = [await answer(future) for future in futures]
    assert [done.number for done in answers if not isinstance(done, Exception)] == list(range(1, 51))
    assert answers[0] == StepDone(1, (Outcome((1,)),), positions=1)
    assert answers[-1] == Drafted(50, ((5, 6),))
    assert heard.events.get_nowait() == "loading fine"
    assert heard.events.empty()  # its end was asked for


async def test_start_returns_what_is_served() -> None:
    heard = Heard()
    engine = EngineProcess(heard.watch(), command=FAKE)
    loaded = await engine.start(Load("fine", max_context=77, kv_tokens=1234))
    assert (loaded.name, loaded.context_tokens, loaded.rows, loaded.row_bytes) == ("fake", 77, 1234, 8)
    assert engine.pid is not None
    await engine.close()
    assert engine.pid is None


async def test_a_large_step_crosses_whole() -> None:
    tokens = tuple(index % 100 for index in range(300_000))
    item = Item(Extent(0, 1 << 20), Span(0, tokens), Sampling())
    async with running() as engine:
        futures = [asked(engine, Step(number, (item,))) for number in (1, 2)]
        for future in futures:
            done = await answer(future)
            assert isinstance(done, StepDone)
            assert done.outcomes == (Outcome(tokens),)


async def test_a_callback_that_raises_costs_no_other_answer() -> None:
    caught: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: caught.append(str(context["exception"])))

    def fails(done: Answered) -> None:
        raise ValueError("a bug of the caller")

    async with running() as engine:
        engine.submit(step(1, 1), fails)
        assert await works(engine)
    assert caught == ["a bug of the caller"]


async def test_the_engine_knows_when_a_step_came() -> None:
    heard = Heard()
    async with running(heard=heard) as engine:
        await answer(asked(engine, step(1, AGAIN)))
        told = await heard.until(lambda event: str(event).startswith("arrived"))
    assert float(str(told[-1]).split()[1]) > 0


# ---- starts that fail ----


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("refused", CheckpointRefused, "no such model"),
        ("too large", EngineRefused, "it does not fit"),
        ("crash", EngineDied, "status 9"),
    ],
)
async def test_a_start_that_fails_says_why(model: str, kind: type[Exception], words: str) -> None:
    heard = Heard()
    engine = EngineProcess(heard.watch(), command=FAKE)
    with pytest.raises(kind, match=words):
        await engine.start(Load(model))
    assert engine.pid is None
    assert heard.events.get_nowait() == f"loading {model}"
    assert heard.events.empty()
    await engine.close()


async def test_a_start_that_is_given_up_leaves_no_process() -> None:
    heard = Heard()
    engine = EngineProcess(heard.watch(), command=FAKE)
    starting = asyncio.create_task(engine.start(Load("hang")))
    told = await heard.until(lambda event: str(event).startswith("hanging as"))
    child = os.pidfd_open(int(str(told[-1]).split()[-1]))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert has_ended(child)


# ---- deaths ----


async def test_a_killed_engine_is_told_to_all_who_waited_and_started_again() -> None:
    heard = Heard()
    async with running(heard=heard) as engine:
        first = engine.pid
        assert first is not None
        answered = asked(engine, step(1, 5))
        waiting = [asked(engine, step(2, HANG)), asked(engine, step(3, 1)), asked(engine, DraftStep(4, ()))]
        await heard.until(lambda event: event == "hanging")
        os.kill(first, signal.SIGKILL)
        for future in waiting:
            died = await answer(future)
            assert isinstance(died, EngineDied)
            assert "SIGKILL" in str(died)
        assert isinstance(answered.result(), StepDone)
        told = await heard.until(lambda event: isinstance(event, Loaded))
        assert isinstance(told[0], EngineDied)
        assert [str(event) for event in told[1:-1]] == ["the engine starts again in 0.01 s", "loading fine"]
        assert engine.pid not in (None, first)
        assert await works(engine)


async def test_between_two_lives_every_question_fails_at_once() -> None:
    heard = Heard()
    engine = EngineProcess(heard.watch(), command=FAKE, backoff=Backoff(first_s=1000.0, most_s=1000.0))
    await engine.start(Load("fine"))
    died = await answer(asked(engine, step(1, RAISE)))
    assert f"status {BROKEN}" in str(died)
    assert isinstance(await answer(asked(engine, step(2, 1))), EngineDied)
    await engine.close()


@pytest.mark.parametrize(("token", "words"), [(GARBLE, "no message of the queue"), (MISNUMBER, "not due")])
async def test_an_engine_that_answers_nonsense_is_replaced(token: int, words: str) -> None:
    heard = Heard()
    async with running(heard=heard) as engine:
        died = await answer(asked(engine, step(1, token)))
        assert isinstance(died, EngineDied)
        assert words in str(died)
        await heard.until(lambda event: isinstance(event, Loaded))
        assert await works(engine)


async def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    digest, heard = tmp_path / "digest", Heard()
    digest.write_bytes(b"one")
    async with running(Load("fine", revision=str(digest)), heard) as engine:
        digest.write_bytes(b"crash")
        assert isinstance(await answer(asked(engine, step(1, RAISE))), EngineDied)
        told = await heard.until(lambda event: "in 0.04 s" in str(event))
        digest.write_bytes(b"one")
        told += await heard.until(lambda event: isinstance(event, Loaded))
        assert await works(engine)
    waits = [str(event).split()[-2] for event in told if "starts again" in str(event)]
    assert waits[:3] == ["0.01", "0.02", "0.04"]
    assert set(waits[3:]) <= {"0.04"}
    assert sum(isinstance(event, EngineDied) for event in told) == 1


async def test_another_model_after_a_crash_is_the_end(tmp_path: Path) -> None:
    digest, heard = tmp_path / "digest", Heard()
    digest.write_bytes(b"one")
    async with running(Load("fine", revision=str(digest)), heard) as engine:
        digest.write_bytes(b"two")
        assert isinstance(await answer(asked(engine, step(1, RAISE))), EngineDied)
        with pytest.raises(EngineChanged):
            async with asyncio.timeout(WAIT_S):
                await engine.failed()
        assert isinstance(await answer(asked(engine, step(2, 1))), EngineDied)
        assert not any(isinstance(event, Loaded) for event in iter_now(heard))


async def test_closing_answers_who_waits() -> None:
    heard = Heard()
    async with running(heard=heard) as engine:
        waiting = [asked(engine, step(1, OUTLAST)), asked(engine, step(2, 1))]
    for future in waiting:
        assert "closed" in str(await answer(future))
    assert not any(isinstance(event, EngineDied) for event in iter_now(heard))


def iter_now(heard: Heard) -> list[object]:
    return [heard.events.get_nowait() for _ in range(heard.events.qsize())]


def test_the_wait_doubles_and_starts_afresh_after_a_long_life() -> None:
    backoff, wait_s, waits = Backoff(), 0.0, []
    for lived_s in (100.0, 0.0, 29.0, 1.0, 0.0, 0.0, 0.0, 31.0, 0.0):
        wait_s = backoff.after(wait_s, lived_s)
        waits.append(wait_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 1.0, 2.0]


# ---- the child alone ----


@contextmanager
def child(*, load: Load | None = None) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Run the fake with a bare socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    with ours, theirs:
        command = (*FAKE, "--fd", str(theirs.fileno()))
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
            theirs.close()
            if load is not None:
                ours.sendall(framed(load))
                assert isinstance(received(ours), Progress)
                assert isinstance(received(ours), Loaded)
            yield process, ours
            process.kill()


def received(connection: socket.socket) -> object:
    length = frame_length(connection.recv(4, socket.MSG_WAITALL))
    return read_answer(connection.recv(length, socket.MSG_WAITALL))


POISON = {
    "no msgpack": b"\x00\x00\x00\x02\xc1\xc1",
    "another type": (lambda text: len(text).to_bytes(4, "big") + text)(msgspec.msgpack.encode({"type": "Loaded"})),
    "a field of another type": (lambda text: len(text).to_bytes(4, "big") + text)(
        msgspec.msgpack.encode({"type": "Step", "number": "one", "items": []})
    ),
    "too long": b"\xff\xff\xff\xff",
    "a second load": framed(Load("fine")),
}


@pytest.mark.parametrize("name", POISON)
def test_a_poisoned_message_ends_the_process(name: str) -> None:
    with child(load=Load("fine")) as (process, connection):
        connection.sendall(POISON[name])
        assert process.stderr is not None
        assert b"BadFrame" in process.stderr.read()
        assert process.wait(WAIT_S) == BROKEN


def test_a_step_before_load_ends_the_process() -> None:
    with child() as (process, connection):
        connection.sendall(framed(step(1, 1)))
        assert process.wait(WAIT_S) == BROKEN


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", framed(step(1, 1))[:-1]])
def test_the_process_ends_with_its_socket(sent: bytes) -> None:
    with child(load=Load("fine")) as (process, connection):
        connection.sendall(sent)
        connection.close()
        assert process.wait(WAIT_S) == 0


def test_signals_to_stop_are_the_fronts_affair() -> None:
    with child(load=Load("fine")) as (process, connection):
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        connection.sendall(framed(step(1, 1)))
        assert isinstance(received(connection), StepDone)


FRONT = """
import asyncio, sys
from edge_node.engine_messages import Load
from edge_node.engine_process import EngineProcess, Watch
from tests.edge_node.fake_engine import FAKE, step

async def front():
    say = lambda text: print(text, flush=True)
    engine = EngineProcess(Watch(say, say, say), command=FAKE)
    await engine.start(Load("fine"))
    print("child", engine.pid, flush=True)
    engine.submit(step(1, int(sys.argv[1])), say)
    await asyncio.Event().wait()

asyncio.run(front())
"""


@pytest.mark.parametrize(("token", "sign"), [(1, b"StepDone"), (HANG, b"hanging")], ids=["idle", "in mid-step"])
def test_the_child_ends_when_the_front_is_killed(token: int, sign: bytes) -> None:
    with subprocess.Popen([sys.executable, "-c", FRONT, str(token)], stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        pid = next(int(line.split()[1]) for line in front.stdout if line.startswith(b"child"))
        descriptor = os.pidfd_open(pid)
        assert any(sign in line for line in front.stdout)
        front.kill()
        assert has_ended(descriptor)


def has_ended(descriptor: int) -> bool:
    """Wait for a process to end; closes its descriptor."""
    try:
        return bool(select.select([descriptor], [], [], WAIT_S)[0])
    finally:
        os.close(descriptor)


# ---- the twin on a thread ----


@dataclass
class DirectRunner:
    """Answers as the fake process does."""

    def run(self, step: Step) -> StepDone:
        if step.items[0].span.tokens[0] == RAISE:
            raise RuntimeError("what no item explains")
        return StepDone(step.number, tuple(Outcome(item.span.tokens) for item in step.items), threading.get_ident())

    def draft(self, step: DraftStep) -> Drafted:
        return Drafted(step.number, tuple(item.ids for item in step.items))


async def test_the_twin_answers_alike_from_its_thread() -> None:
    with EngineThread(DirectRunner()) as engine:
        futures = [asked(engine, step(1, 4, 5)), asked(engine, step(2, RAISE))]
        futures.append(asked(engine, DraftStep(3, (DraftItem(3, Sampling(), (5, 6), 2),))))
        first, second, third = [await answer(future) for future in futures]
    assert isinstance(first, StepDone)
    assert first.outcomes == (Outcome((4,)), Outcome((5,)))
    assert first.positions != threading.get_ident()
    assert str(second) == "what no item explains"
    assert third == Drafted(3, ((5, 6),))


# ---- a real engine ----


async def test_a_real_engine_comes_back_with_the_same_choices(tmp_path: Path) -> None:
    heard, load = Heard(), Load(str(save(shape("llama"), tmp_path / "tiny")), device="cpu", max_context=64, threads=1)
    items = (Item(Extent(128, 128), Span(0, (5, 6, 7), wanted=(0, 2)), Sampling(1.0, seed=3)),)
    engine = EngineProcess(heard.watch(), backoff=QUICK)
    try:
        async with asyncio.timeout(WAIT_S):
            first = await engine.start(load)
        assert first.rows == 64 * 128
        before = await answer(asked(engine, Step(1, items)))
        assert isinstance(before, StepDone)
        assert (len(before.outcomes[0].choices), before.positions) == (2, 3)
        assert min(before.pass_s, before.host_s) > 0
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        again = (await heard.until(lambda event: isinstance(event, Loaded)))[-1]
        assert again == first
        after = await answer(asked(engine, Step(1, items)))
        assert isinstance(after, StepDone)
        assert after.outcomes == before.outcomes
    finally:
        await engine.close()


def test_the_front_keeps_a_core_unless_the_operator_says_otherwise() -> None:
    environments: list[dict[str, str]] = [{}, {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}]
    for environment, cores in zip(environments, (4, 4), strict=True):
        leave_room(environment, cores)
    single: dict[str, str] = {}
    leave_room(single, 1)
    assert [environment["OMP_NUM_THREADS"] for environment in (*environments, single)] == ["3", "7", "1"]
    assert [environment["OMP_WAIT_POLICY"] for environment in environments] == ["PASSIVE", "ACTIVE"]


# ---- frames ----

ANSWERS: list[Answer] = [
    Progress("ä"),
    LoadFailed("no", "machine"),
    Loaded("a", b"\x00" * 32, b"\xff" * 32, "{}", None, (1, 2), 3, 4, "fast/float32/cpu", 5, 6),
    StepDone(7, (Outcome((1, 2), (0,)), Outcome(failure="it failed")), 1, 2, 0.5, 0.25),
    Drafted(8, ((1,), ()), 0.125),
]
ASKS: list[Ask] = [
    Load("demo", threads=1, kv_tokens=9),
    Step(1, (Item(Extent(0, 8), Span(2, (1, 2), (-1, 0), (0,), (1,)), Sampling(0.5, 2**64 - 1), ((1, 2, 3),)),)),
    Step(2, (), (Fill(1, 2), Fill(1, 2, 3))),
    DraftStep(3, (DraftItem(1, Sampling(), (1,), 2),), (4,)),
]


def test_every_message_comes_back_as_it_was() -> None:
    assert [read_answer(framed(message)[4:]) for message in ANSWERS] == ANSWERS
    assert [read_ask(framed(message)[4:]) for message in ASKS] == ASKS


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_frames_come_whole_however_they_were_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = FrameSplitter()
    got: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += splitter.fed(stream[begin:end])
    assert got == payloads


def test_a_frame_with_a_text_that_is_none_is_refused() -> None:
    payload = framed(Progress("loading"))[PREFIX_BYTES:].replace(b"loading", b"\xff" * 7)
    for read in (read_ask, read_answer):
        with pytest.raises(BadFrame):
            read(payload)


def test_a_frame_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(BadFrame):
        FrameSplitter().fed(b"\xff\xff\xff\xff")


# ---- weight of the import ----


def test_the_front_imports_no_torch() -> None:
    code = (
        "import sys, edge_node.engine_process, edge_node.engine_messages, edge_node.step, edge_node.kv_pool;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
