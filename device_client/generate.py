"""``device_client generate`` and ``resume``: one prompt, one answer."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter
from airdraft.core.errors import ModelMismatch, TooLong, Unsupported
from airdraft.core.sampling import check
from airdraft.core.session import Committed, DeviceSession, Journalled, Reattachment
from airdraft.core.types import Limits, Sampling, Semantic
from airdraft.wire.client import EdgeConnection, Traffic
from airdraft.wire.describe import Description
from device_client.attach import access_of, kept_tokenizer, meet
from device_client.config import DeviceSettings
from device_client.display import Display, make_display
from device_client.draft_stop import FramePolicy, policy_of
from device_client.drafters import load_drafter
from device_client.generation import Costs, Generation
from device_client.journal import Head, Journal
from device_client.meaning import asked_with, settings_with, wish_of
from device_client.plan import Schedule, plan_of, steering_of
from device_client.report import Report
from device_client.roaming import Roaming
from device_client.sync_rounds import SyncRounds


class _Watch:
    """A display that also notes when the first text stood there, and that text came at all."""

    def __init__(self, display: Display, started: float, roaming: Roaming) -> None:
        self.first_s = 0.0
        self._display, self._started, self._roaming = display, started, roaming

    def committed(self, event: Committed) -> None:
        self._roaming.held()
        self._display.committed(event)
        if event.ids and not self.first_s:
            self.first_s = time.perf_counter() - self._started

    def drafted(self, ahead: Sequence[int]) -> None:
        self._display.drafted(ahead)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a text needs but the session: how to show it, whom to ask, where to keep it."""

    settings: DeviceSettings
    roaming: Roaming
    display: Display
    connection: EdgeConnection
    description: Description
    tokenizer: Tokenizer


async def generate(
    prompt: str,
    settings: DeviceSettings,
    cache: Path,
    *,
    quiet: bool,
    journal: Path | None = None,
    told: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Let the target answer the prompt and show it as it comes; ``quiet`` shows nothing.

    ``told`` gets the report as soon as the text is over: a padded stream goes on for a while before this returns.
    With ``journal`` the text can be gone on with by ``resume``. Raises SpecError, DrafterUnavailable,
    CheckpointRefused, JournalError, TlsRefused, KeyRefused.
    """
    sampling = sampling_of(settings)
    around = await _meet(settings, settings.edge, 0.0, cache, quiet=quiet)
    async with around.connection:
        ids = around.tokenizer.encode(prompt).ids
        answer_room(ids, around.description, settings)  # before a model is loaded for it
        drafter = _drafter_of(around, sampling)
        session = open_session(ids, around.description, settings, sampling, asked_with(wish_of(settings), drafter))
        if journal is None:
            return await _run_and_part(session, around, drafter, None, told)
        with Journal.create(journal, _head(session, around)) as kept:
            return await _run_and_part(session, around, drafter, kept, told)


async def resume(
    journal: Path,
    settings: DeviceSettings,
    cache: Path,
    *,
    quiet: bool,
    told: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Go on with the text in a journal, which is shown from its beginning; ``told`` is as for ``generate``.

    Raises SpecError, DrafterUnavailable, CheckpointRefused, JournalError, TlsRefused, KeyRefused.
    """
    with Journal.open(journal) as kept:
        head = kept.head
        settings = settings_with(settings, head.semantic).model_copy(
            update={
                "draft_model": head.draft_model,
                "draft_revision": head.draft_revision,
                "draft_length": head.draft_length,
            }
        )
        tokenizer = kept_tokenizer(cache, head.identity.tokenizer_digest)
        if kept.stop is not None and tokenizer is not None:
            report = _retold(kept, settings, tokenizer, quiet=quiet)
            told(report)
            return report
        edges = settings.edge if "edge" in settings.model_fields_set else head.edges
        around = await _meet(settings, edges, settings.reconnect_seconds, cache, quiet=quiet, head=head)
        async with around.connection:
            drafter = _drafter_of(around, head.sampling)
            asked = asked_with(head.semantic, drafter)
            session = _session_of(kept, around.description.limits, settings.schedule, asked)
            return await _run_and_part(session, around, drafter, kept, told)


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


def answer_room(ids: Sequence[int], description: Description, settings: DeviceSettings) -> int:
    """Return how many tokens the answer may have: what is asked for, as far as it fits the edge's context.

    Raises TooLong, Unsupported.
    """
    if not ids:
        raise Unsupported("the prompt has no tokens; give some text")
    room = description.limits.context_tokens - len(ids)
    if room < 0 or (room == 0 and settings.max_tokens > 0):
        raise TooLong(
            f"the prompt has {len(ids)} tokens, {description.model_name} takes "
            f"{description.limits.context_tokens} with its answer; shorten it"
        )
    return min(settings.max_tokens, room)


def open_session(
    ids: Sequence[int],
    description: Description,
    settings: DeviceSettings,
    sampling: Sampling,
    semantic: Semantic | None = None,
) -> DeviceSession:
    """Return a session for a prompt, its answer cut to what fits the edge's context. Raises TooLong, Unsupported.

    ``semantic`` is what is asked for with the drafter's part in it; None is ``exact``.
    """
    max_tokens = answer_room(ids, description, settings)
    return DeviceSession(
        secrets.token_bytes(16),
        description.identity,
        ids,
        sampling=sampling,
        stop_ids=description.stop_ids,
        max_tokens=max_tokens,
        limits=description.limits,
        plan=plan_of(settings.schedule, settings.draft_model, settings.draft_length),
        semantic=semantic,
    )


def _drafter_of(around: _Surroundings, sampling: Sampling) -> Drafter:
    """Return the drafter of the settings. Raises DrafterUnavailable, TokenizerMismatch, CheckpointRefused."""
    settings = around.settings
    return load_drafter(
        settings.draft_model, settings.draft_revision, around.description, sampling, settings.draft_manifest
    )


def _head(session: DeviceSession, around: _Surroundings) -> Head:
    settings = around.settings
    return Head(
        session.session_id,
        around.description.identity,
        session.sampling,
        around.description.stop_ids,
        session.max_tokens,
        tuple(session.ids),
        settings.edge,
        settings.draft_model,
        settings.draft_revision,
        settings.draft_length,
        around.description.model_name,
        wish_of(settings),
    )


def _session_of(kept: Journal, limits: Limits, schedule: Schedule, semantic: Semantic | None = None) -> DeviceSession:
    head = kept.head
    return DeviceSession(
        head.session_id,
        head.identity,
        head.prompt,
        sampling=head.sampling,
        stop_ids=head.stop_ids,
        max_tokens=head.max_tokens,
        limits=limits,
        plan=plan_of(schedule, head.draft_model, head.draft_length),
        journalled=Journalled(kept.epoch, tuple(kept.ids), kept.receipt, kept.stop),
        semantic=semantic,
    )


async def _meet(
    settings: DeviceSettings,
    edges: Sequence[str],
    give_up_s: float,
    cache: Path,
    *,
    quiet: bool,
    head: Head | None = None,
) -> _Surroundings:
    """Find an edge that serves what the text needs. Raises SpecError, TlsRefused, KeyRefused."""
    display = make_display(quiet=quiet)
    roaming = Roaming(
        Reattachment(edges, give_up_s, random.random),
        display,
        connect_s=settings.connect_seconds,
        pad=settings.pad,
        access=access_of(settings),
    )

    async def met(connection: EdgeConnection) -> tuple[Description, Tokenizer]:
        description, tokenizer = await meet(connection, cache, settings.connect_seconds)
        if head is not None and description.identity != head.identity:
            raise ModelMismatch(
                f"edge {connection.address} serves {description.model_name}, another model than the "
                f"{head.model_name} that the journal began with"
            )
        roaming.met(connection.address, description)
        return description, tokenizer

    connection, (description, tokenizer) = await roaming.first(met)
    roaming.edges.give_up_s = settings.reconnect_seconds
    return _Surroundings(settings, roaming, display, connection, description, tokenizer)


def _retold(kept: Journal, settings: DeviceSettings, tokenizer: Tokenizer, *, quiet: bool) -> Report:
    """Show a text that had ended; no edge is needed for it."""
    session, display = _session_of(kept, Limits(0), settings.schedule), make_display(quiet=quiet)
    with display.showing(tokenizer):
        display.committed(Committed(session.prompt_length, tuple(kept.ids), (), kept.stop))
    return Report(settings, kept.head.model_name, session, display.text, Traffic(), Costs(), 0.0, 0.0, 0)


def _round_log(settings: DeviceSettings) -> AbstractContextManager[TextIO | None]:
    """Return the log of rounds, to be gone on with. Raises Unsupported where it cannot be written."""
    if settings.round_log is None:
        return nullcontext()
    try:
        return settings.round_log.open("a", encoding="utf-8")
    except OSError as error:
        raise Unsupported(f"round log {settings.round_log} cannot be written: {error.strerror}") from None


async def _run_and_part(
    session: DeviceSession,
    around: _Surroundings,
    drafter: Drafter,
    journal: Journal | None,
    told: Callable[[Report], None],
) -> Report:
    """Let the text be written; then wait until the padded streams that carried it have come to their rungs."""
    try:
        report = await _run(session, around, drafter, journal)
        told(report)
    finally:
        if around.roaming.rest_s:
            around.display.resting(around.roaming.rest_s)
        await around.roaming.parted()
    return report


async def _run(
    session: DeviceSession, around: _Surroundings, drafter: Drafter, journal: Journal | None = None
) -> Report:
    settings, roaming, description = around.settings, around.roaming, around.description
    steering = steering_of(settings.schedule, settings.draft_model, settings.draft_length, settings.objective)
    started = time.perf_counter()
    watch = _Watch(around.display, started, roaming)
    with ExitStack() as stack:
        log = stack.enter_context(_round_log(settings))
        policy = None if settings.draft_policy is None else FramePolicy(policy_of(settings.draft_policy), drafter)
        generation = Generation(
            session,
            drafter,
            watch,
            journal,
            steering=steering,
            rounds=lambda steering: SyncRounds(steering.planner, policy, log, time.perf_counter),
            may_leave=roaming.may_leave,
            granted=lambda granted: around.display.granted(wish_of(settings), granted),
        )
        stack.enter_context(around.display.showing(around.tokenizer))
        stack.enter_context(generation)
        if journal is not None and journal.ids:
            around.display.committed(Committed(session.prompt_length, tuple(journal.ids), (), journal.stop))
        if not session.ended:
            await roaming.run(generation, description.vocabulary, around.connection)
    return Report(
        settings,
        description.model_name,
        session,
        around.display.text,
        roaming.traffic,
        generation.costs,
        watch.first_s,
        time.perf_counter() - started,
        roaming.reattached,
        steering.planner,
        generation.granted,
    )
