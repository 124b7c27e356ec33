"""A device process at a stated pace: the real roaming, generation and session; only a draft's seconds are stated.

``python -m bench.paced_device EDGE`` meets an edge, prints ``ready``, then reads orders (``bench.radio_text``), a line
each, and answers each with a line of JSON: a text written, or which of its tokens a drafter would have drafted. It ends
with its input.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.session import Committed, Reattachment
from airdraft.core.types import Sampling, Semantic
from airdraft.link.pacing import NoisyDrafter, PacedDrafter, Pacer
from airdraft.wire.client import EdgeConnection
from airdraft.wire.describe import Description
from bench.planner_memory import memory_of, planner_of
from bench.processes import pin
from bench.radio_memory import Memories, Remembering
from bench.radio_text import NOISE_SEED, Matches, MatchOrder, Text, TextOrder, answer_line, order_of
from bench.semantic_states import Widened
from coordinator.policy.plan import objective_of
from coordinator.policy.planner import Planner
from coordinator.policy.steering import Steering
from device_client.attach import meet
from device_client.config import DeviceSettings
from device_client.generate import open_session
from device_client.generation import Generation
from device_client.meaning import asked_with, wish_of
from device_client.plan import start_of
from device_client.roaming import Roaming

if TYPE_CHECKING:
    from device_client.drafters.torch_model import TorchDrafter

CONNECT_S = 20.0


class _Onlooker:
    """Watches a text: when each commit came."""

    def __init__(self, roaming: Roaming, text: Text) -> None:
        self.began_s = time.perf_counter()
        self._roaming, self._text = roaming, text

    def committed(self, event: Committed) -> None:
        self._roaming.held()
        if event.ids:
            self._text.ids += event.ids
            self._text.arrivals_s.append(time.perf_counter() - self.began_s)
            self._text.commit_tokens.append(len(event.ids))

    def drafted(self, ahead: Sequence[int]) -> None:
        pass


class _Patience:
    """Is told of waits, and keeps still: streams that were lost are counted."""

    def waiting(self, reason: str) -> None:
        pass

    def back(self, edge: str, after_s: float) -> None:
        pass


class PacedDevice:
    """One device, with the drafters that it has loaded."""

    def __init__(self, description: Description, tokenizer: Tokenizer) -> None:
        self._description, self._tokenizer = description, tokenizer
        self._models: dict[str, TorchDrafter] = {}
        self._memories = Memories()
        self._pacer = Pacer()

    async def write(self, order: TextOrder) -> Text:
        """Let a text be written over the link at ``order.edge``."""
        sampling = Sampling(temperature=order.temperature, seed=order.seed)
        settings = _settings(order)
        drafter = self._drafter(order.drafter, sampling, remembers=order.draft_s is not None)
        semantic = self._wish(order, settings)
        session = open_session(self._ids(order.prompt), self._description, settings, sampling, semantic)
        session.plan = order.plan
        if order.channel is not None:
            session.channel(None, *order.channel)
        if order.draft_s is not None:
            drafter = PacedDrafter(drafter, order.draft_s, self._pacer)
        if order.state_width:
            drafter = Widened(drafter, order.state_width)
        roaming = Roaming(Reattachment((order.edge,), CONNECT_S, random.random), _Patience(), connect_s=CONNECT_S)
        connection, _ = await roaming.first(self._met(roaming))
        text = Text()
        onlooker = _Onlooker(roaming, text)
        planner = _planner(order)
        steering = None if planner is None else Steering(planner)
        with Generation(session, drafter, onlooker, steering=steering) as generation:
            await roaming.run(generation, self._description.vocabulary, connection)
        text.bytes_up, text.bytes_down = roaming.traffic.bytes_up, roaming.traffic.bytes_down
        text.draft_s, text.pass_s = generation.costs.draft_s, generation.costs.pass_s
        text.drafted, text.accepted = session.tally.drafted, session.tally.accepted
        text.meant, text.granted = session.tally.meaning, generation.granted.max_loss
        text.reattached, text.draft_late_s = roaming.reattached, self._pacer.take_late_s()
        if planner is not None:
            text.memory = memory_of(planner)
            text.plan = str(planner.plan)
        return text

    def match(self, order: MatchOrder) -> Matches:
        """Say which tokens of an answer the drafter writes, given the prompt and all tokens before."""
        sampling = Sampling(temperature=order.temperature, seed=order.seed)
        drafter = self._drafter(order.drafter, sampling, remembers=True)
        prompt = self._ids(order.prompt)
        whole = [*prompt, *order.answer]
        matched: list[bool] = []
        for at in range(len(prompt), len(whole)):
            if isinstance(drafter, NoisyDrafter):
                matched.append(drafter.is_true(whole[:at]))
            else:
                matched.append(drafter.propose(whole[:at], 1, lambda: False) == [whole[at]])
        return Matches(tuple(prompt), tuple(matched), self._description.stop_ids)

    def _ids(self, prompt: str) -> list[int]:
        return list(self._tokenizer.encode(prompt).ids)

    def _met(self, roaming: Roaming) -> Callable[[EdgeConnection], Awaitable[None]]:
        async def met(connection: EdgeConnection) -> None:
            roaming.met(connection.address, self._description)

        return met

    def _drafter(self, name: str, sampling: Sampling, *, remembers: bool) -> Drafter:
        """Return a drafter that drafts by this sampling; ``none`` is never asked."""
        if name == "none":
            return NgramDrafter()
        kind, _, acceptance = name.partition(":")
        reference = "demo-target" if kind == "noisy" else name
        model = self._model(reference)
        model.sampling = sampling
        drafter: Drafter = Remembering(model, self._memories.of(reference, sampling)) if remembers else model
        return (
            NoisyDrafter(drafter, float(acceptance), NOISE_SEED, self._description.vocabulary)
            if kind == "noisy"
            else drafter
        )

    def _wish(self, order: TextOrder, settings: DeviceSettings) -> Semantic | None:
        """Return what the text may be accepted by, as its drafter is; None is exact."""
        wish = wish_of(settings)
        if wish is None:
            return None
        asked = asked_with(wish, self._model(order.drafter))
        assert asked is not None
        return replace(asked, state_width=order.state_width or asked.state_width)

    def _model(self, reference: str) -> TorchDrafter:
        from device_client.drafters.torch_model import load_torch_drafter

        if reference not in self._models:
            self._models[reference], _ = load_torch_drafter(reference, vocabulary=self._description.vocabulary)
        return self._models[reference]


def _settings(order: TextOrder) -> DeviceSettings:
    settings = DeviceSettings(edge=(order.edge,), max_tokens=order.max_tokens)
    if not order.max_loss:
        return settings
    return settings.model_copy(
        update={"accept": "semantic", "max_quality_loss": order.max_loss, "hidden": order.hidden}
    )


def _planner(order: TextOrder) -> Planner | None:
    """Return who plans a text: as after the text before, or one that knows nothing; None where the order does."""
    if not order.objective:
        return None
    if order.memory:
        return planner_of(order.memory)
    return Planner(objective_of(order.objective), start_of("auto", order.drafter, 1))


async def obey(edge: str) -> None:
    """Meet the edge, then carry orders out until the input ends."""
    with TemporaryDirectory() as cache:
        async with EdgeConnection(edge) as connection:
            description, tokenizer = await meet(connection, Path(cache), CONNECT_S)
    device = PacedDevice(description, tokenizer)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = order_of(line)
        answer = await device.write(order) if isinstance(order, TextOrder) else device.match(order)
        print(answer_line(answer), flush=True)


def main(
    edge: Annotated[str, typer.Argument(help="HOST:PORT of the edge to meet.")],
    core: Annotated[int | None, typer.Option(help="Core to stay on. [default: any]")] = None,
) -> None:
    """Write texts to order."""
    import torch

    if core is not None:
        pin(core)
    torch.set_num_threads(1)
    asyncio.run(obey(edge))


if __name__ == "__main__":
    typer.run(main)
