"""The commands as a user runs them: real processes, real exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import Draining
from airdraft.core.types import Sampling
from airdraft.link.relay import Relay
from airdraft.wire.client import EdgeConnection
from bench.processes import edge_node
from device_client.attach import meet
from device_client.config import DeviceSettings
from device_client.display import PipeDisplay
from device_client.generate import open_session
from device_client.generation import Generation
from models.wordproblems import word_problem
from tests.checkpoints import save
from tests.shapes import shape


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An edge that waits for its devices, so that their drafts are there to be accepted."""
    with edge_node(["--model", "demo", "--no-run-ahead"]) as running:
        yield running


@pytest.fixture(scope="module")
def going_ahead() -> Iterator[str]:
    """An edge as it is without options."""
    with edge_node() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a cache folder of its own and none of our variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRDRAFT_")}
    return kept | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def device(*arguments: str, env: dict[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "device_client", *arguments],
        input=text, capture_output=True, text=True, env=env, timeout=60, check=False,
    )  # fmt: skip


def test_generate_streams_text_and_ends_with_one_line(address: str, going_ahead: str, home: dict[str, str]) -> None:
    prompt = word_problem("held-out", 1).prompt
    done = device("generate", prompt, "--edge", address, "--draft-model", "demo", env=home)
    assert done.returncode == 0, done.stderr
    assert "####" in done.stdout
    (line,) = done.stderr.splitlines()
    for word in ("tokens", "rounds", "tokens a round", "accepted", "up", "down"):
        assert word in line
    assert list((Path(home["XDG_CACHE_HOME"]) / "airdraft" / "tokenizers").glob("*.json"))

    read = device("generate", "-", "--edge", address, "--draft-model", "demo", "--json", env=home, text=prompt)
    report = json.loads(read.stdout)
    assert report["text"] + "\n" == done.stdout
    assert report["accepted_tokens"] > 0
    assert report["draft_bytes"] <= 28 * report["draft_frames"] + 4 * report["draft_tokens"]
    assert report["tokens"] == len(report["ids"]) == sum(report["origins"].values())

    alone = device("generate", prompt, "--edge", address, "--num-speculative-tokens", "0", "--json", env=home)
    assert json.loads(alone.stdout)["ids"] == report["ids"]
    assert json.loads(alone.stdout)["drafted_tokens"] == 0

    for edge, schedule, model in (
        (address, "sync", "ngram"),
        (address, "sync", "demo"),
        (going_ahead, "pipelined", "demo"),
        (going_ahead, "auto", "ngram"),
    ):
        options = ("--edge", edge, "--schedule", schedule, "--draft-model", model, "--json")
        assert json.loads(device("generate", prompt, *options, env=home).stdout)["ids"] == report["ids"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "x", "--edge", "127.0.0.1:9"], 3, "no edge node answers at 127.0.0.1:9; start one"),
        (["generate", "", "--edge", "{edge}"], 2, "the prompt has no tokens"),
        (["generate", "x", "--edge", "{edge}", "--repetition-penalty", "0"], 2, "repetition_penalty must be from"),
        (["generate", "x", "--edge", "{edge}", "--draft-length", "-1"], 2, "draft-length: Input should be greater"),
        (["generate", "x", "--edge", "{edge}", "--draft-model", "./nowhere"], 2, "./nowhere is not a folder"),
        (["generate", "word " * 5000, "--edge", "{edge}"], 2, "shorten it"),
        (["generate", "x", "--edge", "{edge}", "--config", "nowhere.toml"], 2, "cannot read nowhere.toml"),
        (["generate", "x", "--edge", "{edge}", "--draft-model", "{other}"], 4, "different tokenizers"),
        (["generate"], 2, "Missing argument"),
        (["generate", "x", "--no-such-option"], 2, "No such option"),
    ],
)
def test_every_error_has_its_code_and_one_line(
    arguments: list[str], code: int, words: str, address: str, home: dict[str, str], tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    if "{other}" in arguments:
        save(shape("llama"), Path(other))
    done = device(*(argument.format(edge=address, other=other) for argument in arguments), env=home)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if "option" not in words and "argument" not in words:  # those are Typer's, which draws a box
        assert len(done.stderr.splitlines()) == 1


def test_unknown_settings_fail_and_name_the_known_ones(home: dict[str, str], tmp_path: Path) -> None:
    done = device("generate", "x", env=home | {"AIRDRAFT_DEVICE_EDGES": "a:1"})
    assert done.returncode == 2
    assert "unknown variable AIRDRAFT_DEVICE_EDGES; known after AIRDRAFT_DEVICE_: accept, " in done.stderr
    assert ", connect_seconds, " in done.stderr
    config = tmp_path / "settings.toml"
    config.write_text("[device_client]\nedges = 'a:1'\n")
    done = device("generate", "x", "--config", str(config), env=home)
    assert done.returncode == 2
    assert "unknown key 'edges' in [device_client]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "add --insecure"),
        (["--model", "./nowhere"], "./nowhere is not a folder"),
        (["--max-sessions", "0"], "max-sessions: Input should be greater"),
        (["--port", "{taken}"], "is another edge running?"),
    ],
)
def test_an_edge_that_cannot_serve_says_why(
    arguments: list[str], words: str, address: str, home: dict[str, str]
) -> None:
    given = [argument.format(taken=address.rpartition(":")[2]) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "edge_node", "serve", "--port", "0", *given],
        capture_output=True, text=True, env=home, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_health_and_reflection(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "airdraft.v1.Verification"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answer = next(reflection.ServerReflectionInfo(iter([asked])))
        assert "airdraft.v1.Verification" in {entry.name for entry in answer.list_services_response.service}


@contextmanager
def held_up(edge: str) -> Iterator[Relay]:
    """A relay, on a loop of its own, that carries a little text and then no more."""
    ready: Future[Relay] = Future()
    over = threading.Event()

    async def carry() -> None:
        host, _, port = edge.rpartition(":")
        async with Relay(host, int(port), random=random.Random(1)) as relay:
            ready.set_result(relay)
            while relay.carried_bytes[1] < 4_000 and not over.is_set():
                await asyncio.sleep(0.001)
            relay.refuse()
            relay.cut()
            while not over.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(carry(),))
    thread.start()
    try:
        yield ready.result(10)
    finally:
        over.set()
        thread.join()


class Gated:
    """A drafter that has nothing to say, and says so only when it may."""

    def __init__(self) -> None:
        self.may_speak = threading.Event()

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        self.may_speak.wait(30)
        return []

    def learn(self, ids: Sequence[int]) -> None:
        pass


async def test_sigterm_refuses_new_texts_and_lets_the_old_ones_finish(home: dict[str, str], tmp_path: Path) -> None:
    edge = subprocess.Popen(
        [sys.executable, "-m", "edge_node", "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=home,
    )  # fmt: skip
    try:
        assert edge.stdout is not None
        line = await asyncio.to_thread(edge.stdout.readline)
        address = line.split()[1]
        async with (
            EdgeConnection(address) as connection,
            AsyncExitStack() as stack,
            asyncio.timeout(60),
            asyncio.TaskGroup() as group,
        ):
            description, tokenizer = await meet(connection, tmp_path, 10)
            settings = DeviceSettings(edge=(address,), max_tokens=30)
            session = open_session(tokenizer.encode("Tom has 3 pens.").ids, description, settings, Sampling())
            drafter, display = Gated(), PipeDisplay()
            stack.enter_context(display.showing(tokenizer))
            generation = stack.enter_context(Generation(session, drafter, display))
            running = group.create_task(generation.over(connection.generate(description.vocabulary)))
            while len(session.ids) == session.prompt_length:  # until the first token is here
                await asyncio.sleep(0.01)
            edge.send_signal(signal.SIGTERM)
            async with grpc.aio.insecure_channel(address) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                serving = health_pb2.HealthCheckResponse.SERVING
                while (await health.Check(health_pb2.HealthCheckRequest())).status == serving:
                    await asyncio.sleep(0.01)
            late = open_session([1, 2], description, settings, Sampling())
            with (
                Generation(late, NgramDrafter(), display) as refused,
                pytest.raises(Draining, match="attach elsewhere"),
            ):
                await refused.over(connection.generate(description.vocabulary))
            drafter.may_speak.set()
            await running
        assert session.ended
        assert session.stop is not None
        assert await asyncio.to_thread(edge.wait, 30) == 0
        assert edge.stderr is not None
        assert "draining" in edge.stderr.read()
    finally:
        edge.kill()
        edge.communicate()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts go on for as long as they may."""
    return save(shape("llama"), tmp_path_factory.mktemp("endless"))


def test_a_text_that_cannot_go_on_ends_with_its_journals_name_and_is_resumed(
    endless: Path, home: dict[str, str], tmp_path: Path
) -> None:
    journal = tmp_path / "text.journal"
    options = ["--max-tokens", "120", "--temperature", "1", "--seed", "3", "--json"]
    ask = ["generate", "w5 w6 w7", *options]
    with edge_node(["--model", str(endless)]) as edge:
        whole = json.loads(device(*ask, "--edge", edge, env=home).stdout)
        assert whole["tokens"] == 120
        with held_up(edge) as relay:
            done = device(
                *ask, "--edge", relay.address, "--journal", str(journal), "--reconnect-seconds", "1", env=home
            )
            assert done.returncode == 3, done.stderr
            assert done.stdout == ""
            first, *_, last = done.stderr.splitlines()
            assert first.startswith("device_client: reconnecting (edge ")
            assert "no edge could go on with the text for 1 s; last: " in last
            assert last.endswith(f"; the text is kept: device_client resume {journal}")
        partly = len(journal.read_text().splitlines())
        assert partly > 2  # its head, an epoch, and some of the text

        resumed = device("resume", str(journal), "--edge", edge, "--json", env=home)
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout)["ids"] == whole["ids"]
        assert json.loads(resumed.stdout)["text"] == whole["text"]

        again = device("generate", "w5", "--edge", edge, "--journal", str(journal), env=home)
        assert again.returncode == 2
        assert f"{journal} exists" in again.stderr
    shown = device("resume", str(journal), env=home)  # the text has ended: no edge is needed
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == whole["text"].strip()
    assert shown.stderr == "120 tokens, all of them from the journal\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot open"), ("no journal\n", "is not a journal"), ("", "is not a journal")],
)
def test_what_is_no_journal_is_refused_in_one_line(
    content: str | None, words: str, home: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    done = device("resume", str(path), env=home)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_next_edge_of_the_list_serves_when_the_first_does_not(address: str, home: dict[str, str]) -> None:
    prompt = word_problem("held-out", 1).prompt
    done = device("generate", prompt, "--edge", "127.0.0.1:9", "--edge", address, "--json", env=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] > 0
    wrong = device("generate", "x", "--edge", "nowhere", env=home)
    assert wrong.returncode == 2
    assert "'nowhere' is no HOST:PORT" in wrong.stderr
