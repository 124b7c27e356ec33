"""``device_client generate``: one prompt, one answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter
from airdraft.core.errors import TooLong, Unsupported
from airdraft.core.sampling import check
from airdraft.core.session import Committed, DeviceSession
from airdraft.core.types import Plan, Sampling
from airdraft.wire.client import EdgeConnection, Traffic
from airdraft.wire.describe import Description
from device_client.attach import meet
from device_client.config import DeviceSettings
from device_client.display import Display, make_display
from device_client.drafters import load_drafter
from device_client.stream import Costs, StreamPump


@dataclass(frozen=True, slots=True)
class Report:
    """What a generation came to."""

    settings: DeviceSettings
    description: Description
    session: DeviceSession
    text: str
    traffic: Traffic
    costs: Costs
    first_text_s: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines; units stand in the names."""
        tally, traffic, session = self.session.tally, self.traffic, self.session
        return {
            "text": self.text,
            "ids": list(session.ids[session.prompt_length :]),
            "stop": session.stop.name.lower() if session.stop else None,
            "seed": session.sampling.seed,
            "temperature": session.sampling.temperature,
            "model": self.description.model_name,
            "draft_model": self.settings.draft_model,
            "prompt_tokens": session.prompt_length,
            "tokens": tally.committed,
            "rounds": tally.rounds,
            "tokens_per_round": round(tally.tokens_per_round, 4),
            "drafted_tokens": tally.drafted,
            "accepted_tokens": tally.accepted,
            "acceptance": round(tally.acceptance, 4),
            "origins": {origin.name.lower(): count for origin, count in tally.by_origin.items()},
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "draft_frames": traffic.draft_frames,
            "draft_tokens": traffic.draft_tokens,
            "draft_bytes": traffic.draft_bytes,
            "first_text_ms": round(self.first_text_s * 1000, 3),
            "seconds": round(self.seconds, 6),
            "device_seconds": round(self.costs.draft_s, 6),
            "edge_seconds": round(self.costs.pass_s, 6),
        }

    def as_line(self) -> str:
        """Return the report for people."""
        tally, traffic = self.session.tally, self.traffic
        return (
            f"{tally.committed} tokens · {tally.rounds} rounds · {tally.tokens_per_round:.2f} tokens a round · "
            f"{tally.acceptance:.0%} of {tally.drafted} drafted accepted · {_size(traffic.bytes_up)} up · "
            f"{_size(traffic.bytes_down)} down · first text {self.first_text_s * 1000:.0f} ms · {self.seconds:.2f} s"
        )


def _size(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB"


class _Stopwatch:
    """A display that also notes when the first text stood there."""

    def __init__(self, display: Display, started: float) -> None:
        self.first_s = 0.0
        self._display, self._started = display, started

    def committed(self, event: Committed) -> None:
        self._display.committed(event)
        if event.ids and not self.first_s:
            self.first_s = time.perf_counter() - self._started

    def drafted(self, ahead: Sequence[int]) -> None:
        self._display.drafted(ahead)


async def generate(prompt: str, settings: DeviceSettings, cache: Path, *, quiet: bool) -> Report:
    """Let the edge's target answer the prompt and show it as it comes; ``quiet`` shows nothing.

    Raises SpecError, DrafterUnavailable, CheckpointRefused.
    """
    sampling = sampling_of(settings)
    async with EdgeConnection(settings.edge) as connection:
        description, tokenizer = await meet(connection, cache, settings.connect_seconds)
        drafter = load_drafter(settings.draft_model, settings.draft_revision, description, sampling)
        session = open_session(tokenizer.encode(prompt).ids, description, settings, sampling)
        return await _run(session, connection, description, tokenizer, drafter, settings, quiet=quiet)


def sampling_of(settings: DeviceSettings) -> Sampling:
    """Return how the text is to be chosen; a seed is drawn where none was given. Raises Unsupported."""
    sampling = Sampling(
        temperature=settings.temperature,
        seed=secrets.randbits(64) if settings.seed is None else settings.seed,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
    )
    try:
        check(sampling)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return sampling


def open_session(
    ids: Sequence[int], description: Description, settings: DeviceSettings, sampling: Sampling
) -> DeviceSession:
    """Return a session for a prompt, its answer cut to what fits the edge's context. Raises TooLong, Unsupported."""
    if not ids:
        raise Unsupported("the prompt has no tokens; give some text")
    room = description.limits.context_tokens - len(ids)
    if room < 0 or (room == 0 and settings.max_tokens > 0):
        raise TooLong(
            f"the prompt has {len(ids)} tokens, {description.model_name} takes "
            f"{description.limits.context_tokens} with its answer; shorten it"
        )
    return DeviceSession(
        secrets.token_bytes(16),
        description.identity,
        ids,
        sampling=sampling,
        stop_ids=description.stop_ids,
        max_tokens=min(settings.max_tokens, room),
        limits=description.limits,
        plan=Plan(settings.draft_length),
    )


async def _run(
    session: DeviceSession,
    connection: EdgeConnection,
    description: Description,
    tokenizer: Tokenizer,
    drafter: Drafter,
    settings: DeviceSettings,
    *,
    quiet: bool,
) -> Report:
    stream = connection.generate(description.vocabulary)
    started = time.perf_counter()
    with make_display(tokenizer, quiet=quiet) as display:
        watch = _Stopwatch(display, started)
        pump = StreamPump(session, stream, drafter, watch)
        await pump.run(1, with_prefix=True)
    return Report(
        settings,
        description,
        session,
        display.committed_text.text,
        stream.traffic,
        pump.costs,
        watch.first_s,
        time.perf_counter() - started,
    )
