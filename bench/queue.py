"""``python -m bench queue``: what the border between front and engine costs, and what it buys (ADR 0010).

Two questions. What does a step's way to the engine and back take, when nothing is computed: by a thread of the same
process, by the queue of the edge node, by asyncio's streams, by a pipe with pickles. And how many frames does an event
loop echo while a model runs: beside it, in the same interpreter, in a process of its own. Both ends of the echo are in
the front, so that front and model have a core each.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from itertools import product
from multiprocessing.synchronize import Event as ProcessEvent
from typing import Any

import numpy as np

from airdraft.core.types import Sampling, Span
from bench.figures import Result
from bench.processes import pin
from bench.queue_ends import WAYS, Ask
from edge_node.step import Extent, Item, Step

BATCHES = (1, 16, 64)
BLOCK = 25
"""Steps by one way before the next has its turn."""

POSITIONS = 5
PAUSE_S = 0.002
"""Between two steps: an engine that just answered is still awake."""

_FRAME = bytes(44)  # a draft of four
_PASS_POSITIONS = 16


def step_of(number: int, items: int) -> Step:
    """Return a step in which each session verifies four drafted tokens."""
    span = Span(300, (1000, 2000, 30000, 4000, 50000), wanted=tuple(range(POSITIONS)))
    sampling = Sampling(0.7, 2**63 + 5, top_p=0.9)
    return Step(number, tuple(Item(Extent(512 * index, 512), span, sampling) for index in range(items)))


async def _trips(ask: Ask, items: int, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds to the engine and those there and back, of so many steps."""
    there: list[float] = []
    both: list[float] = []
    for number in range(count):
        step = step_of(number, items)
        await asyncio.sleep(PAUSE_S)
        started = time.perf_counter()
        done = await ask(step)
        both.append(time.perf_counter() - started)
        there.append(done.pass_s - started)
    return there, both


async def _measure_ways(result: Result, count: int) -> None:
    """Measure the ways in turn, since shared machines change speed."""
    seconds: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        asks = {name: await stack.enter_async_context(way()) for name, way in WAYS.items()}
        for items, ask in product(BATCHES, asks.values()):
            await _trips(ask, items, BLOCK)  # the first ones find everything cold
        for _ in range(0, count, BLOCK):
            for items, (name, ask) in product(BATCHES, asks.items()):
                there, both = await _trips(ask, items, BLOCK)
                seconds[f"{name}_{items}_there_us"] += there
                seconds[f"{name}_{items}_round_us"] += both
    for name, values in seconds.items():
        result.add_median(name, [value * 1e6 for value in values])


# ---- what a model beside the loop costs it ----


class _Echo(asyncio.Protocol):
    """Sends back whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _echoed(seconds: float) -> list[float]:
    """Return how long each of the echoes took that fit into so many seconds, one after the other."""
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(_Echo, sock=far)
    reader, writer = await asyncio.open_connection(sock=near)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        writer.write(_FRAME)
        await reader.readexactly(len(_FRAME))
        took.append(time.perf_counter() - started)
    writer.close()
    transport.close()
    return took


def _run_model(stop: threading.Event | ProcessEvent, ready: threading.Event | ProcessEvent, passes: Any) -> None:
    """Run passes of a small model until told to stop; count them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    shape: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=1024, **shape))
    ids = torch.ones((1, _PASS_POSITIONS), dtype=torch.long)
    with torch.inference_mode():
        model(ids)
        ready.set()
        while not stop.is_set():
            model(ids)
            passes.value += 1


def _run_model_apart(stop: ProcessEvent, ready: ProcessEvent, passes: Any) -> None:
    pin(1)
    _run_model(stop, ready, passes)


@contextmanager
def _model(place: str) -> Iterator[Any]:
    """Run the model in a thread of this process or in one of its own; give the count of its passes."""
    context = multiprocessing.get_context("spawn")
    stop, ready, passes = context.Event(), context.Event(), context.Value("q", 0)
    runner: Any
    if place == "thread":
        runner = threading.Thread(target=_run_model, args=(stop, ready, passes))
    else:
        runner = context.Process(target=_run_model_apart, args=(stop, ready, passes))
    runner.start()
    ready.wait()
    try:
        yield passes
    finally:
        stop.set()
        runner.join()


def _measure_neighbours(result: Result, rounds: int, seconds: float) -> None:
    frames: dict[str, list[float]] = {"alone": [], "thread": [], "process": []}
    slowest: dict[str, list[float]] = {place: [] for place in frames}
    passes: dict[str, list[float]] = {"thread": [], "process": []}
    for _ in range(rounds):
        for place in frames:
            with nullcontext() if place == "alone" else _model(place) as count:
                before = 0 if count is None else count.value
                took = asyncio.run(_echoed(seconds))
                frames[place].append(len(took) / seconds)
                slowest[place].append(float(np.percentile(took, 99)) * 1e6)
                if count is not None:
                    passes[place].append((count.value - before) / seconds)
    for place, values in frames.items():
        result.add_median(f"{place}_echoes_s", values)
        result.add_median(f"{place}_echo_p99_us", slowest[place])
    for place, values in passes.items():
        result.add_median(f"{place}_passes_s", values)


def run(*, quick: bool) -> Result:
    """Measure both."""
    result = Result("queue")
    asyncio.run(_measure_ways(result, BLOCK if quick else 24 * BLOCK))
    _measure_neighbours(result, 1 if quick else 5, 0.5 if quick else 1.5)
    return result
