"""The faults: what a step does to a world.

A step carries plain numbers from which its fault takes what it needs, so that hypothesis and a seeded generator draw
from the same actions, and a step means the same in a shorter list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

from airdraft.link.virtual_device import DeviceProcess
from airdraft.link.virtual_journal import Journal
from airdraft.link.virtual_stream import Stream
from airdraft.link.virtual_world import Told
from tests.link.faults_history import THIEF
from tests.link.faults_trial import Trial

HELD_S = (0.0, 0.05, 0.3, 5.0)
"""How long an edge may be asked to hold its own tokens back."""

TOLD: tuple[Told, ...] = ("both", "device", "edge")


@dataclass(frozen=True, slots=True)
class Step:
    """A fault: after so many events, with numbers to take from."""

    kind: str
    pause: int = 0  # events
    a: int = 0
    b: int = 0
    share: float = 0.0  # in [0, 1]


Fault = Callable[[Trial, Step], bool]


def _seconds(step: Step, least: float = 0.1, most: float = 60.0) -> float:
    """Spread a share over orders of magnitude."""
    return float(least * (most / least) ** step.share)


def _wait(trial: Trial, step: Step) -> bool:
    trial.world.agenda.run(seconds=_seconds(step, 0.001, 20))
    return True


def _cut(trial: Trial, step: Step) -> bool:
    stream = _stream(trial, step)
    if stream is None:
        return False
    trial.world.cut(stream, told=TOLD[step.b % 3])
    return True


def _cut_amid(trial: Trial, step: Step) -> bool:
    stream = _stream(trial, step)
    if stream is None:
        return False
    half = int(step.share * 4)
    trial.world.cut(stream, told=TOLD[step.b % 3], arriving_up=half, arriving_down=step.a % 4)
    return True


def _refuse(trial: Trial, step: Step) -> bool:
    trial.world.refuse(_device(trial, step).name, trial.edge(step.b), _seconds(step, 0.1, 5))
    return _cut(trial, step)


def _black_hole(trial: Trial, step: Step) -> bool:
    trial.world.darken(_device(trial, step).name, _current(trial, step), _seconds(step), lost=True)
    return True


def _outage(trial: Trial, step: Step) -> bool:
    trial.world.darken(_device(trial, step).name, _current(trial, step), _seconds(step), lost=False)
    return True


def _current(trial: Trial, step: Step) -> str:
    stream = _stream(trial, step)
    return stream.edge if stream is not None else trial.edge(step.b)


def _slice(trial: Trial, step: Step) -> bool:
    stream = _stream(trial, step)
    if stream is None:
        return False
    (stream.up if step.b % 2 else stream.down).slice(_seconds(step, 0.01, 1))
    return True


def _replay(trial: Trial, step: Step) -> bool:
    streams = trial.world.streams
    if not streams:
        return False
    stream = streams[-1 - step.a % len(streams)]
    return trial.world.replay(stream, trial.edge(step.b), 1 + int(step.share * len(stream.sent))) is not None


def _thief(trial: Trial, step: Step) -> bool:
    streams = trial.world.streams
    if not streams:
        return False
    stream = streams[-1 - step.a % len(streams)]
    return trial.world.replay(stream, trial.edge(step.b), len(stream.sent), as_session=THIEF) is not None


def _kill_edge(trial: Trial, step: Step) -> bool:
    edge = _current(trial, step) if step.b % 4 else trial.edge(step.a)
    trial.world.kill_edge(edge, _seconds(step, 0.05, 20), told=bool(step.b % 2))
    return True


def _strand(trial: Trial, step: Step) -> bool:
    trial.world.strand(_current(trial, step), _seconds(step))
    return True


def _half_close(trial: Trial, step: Step) -> bool:
    stream = _stream(trial, step)
    if stream is None:
        return False
    trial.world.half_close(stream)
    return True


def _kill_device(trial: Trial, step: Step) -> bool:
    trial.world.kill_device(_device(trial, step), after_effects=step.b % 6, told=step.share < 0.5)
    return True


def _journal_changed(trial: Trial, step: Step, journal: Journal, session_id: bytes) -> bool:
    device = _device(trial, step)
    trial.world.kill_device(device, after_effects=0, told=step.share < 0.5)
    trial.world.start_device(journal, replace(device.wish, session_id=session_id))
    return True


def _roll_back(trial: Trial, step: Step) -> bool:
    device = _device(trial, step)
    trial.history.twins = True  # what it used and forgot looks like a twin's
    kept = max(0, len(device.journal.records) - 1 - step.b % 6)
    return _journal_changed(trial, step, Journal(device.journal.records[:kept]), device.wish.session_id)


def _lose_journal(trial: Trial, step: Step) -> bool:
    session_id = blake2b(_device(trial, step).wish.session_id, digest_size=16).digest()
    return _journal_changed(trial, step, Journal(), session_id)


def _twin(trial: Trial, step: Step) -> bool:
    if len(trial.world.running) > 1:
        return False
    device = _device(trial, step)
    trial.history.twins = True
    trial.world.start_device(Journal(list(device.journal.records)), device.wish)
    return True


def _evict(trial: Trial, step: Step) -> bool:
    entries = trial.world.entries
    if not entries:
        return False
    edge, entry = entries[step.a % len(entries)]
    edge.soon(lambda: edge.evict(entry, ids_too=False))
    return True


def _evict_ids(trial: Trial, step: Step) -> bool:
    entries = trial.world.entries
    if not entries:
        return False
    edge, entry = entries[step.a % len(entries)]
    edge.soon(lambda: edge.evict(entry, ids_too=True))
    return True


def _refuse_frame(trial: Trial, step: Step) -> bool:
    entries = [(edge, entry) for edge, entry in trial.world.entries if entry.session.attached]
    if not entries:
        return False
    _, entry = entries[step.a % len(entries)]
    trial.history.frames_refused = True
    entry.refuse = True
    return True


def _drain(trial: Trial, step: Step) -> bool:
    trial.world.drain(_current(trial, step), _seconds(step, 0.05, 5), 0.5)
    return True


def _stop_device(trial: Trial, step: Step) -> bool:
    _device(trial, step).stop_for(_seconds(step), clock_stops=bool(step.b % 2))
    return True


def _stop_edge(trial: Trial, step: Step) -> bool:
    trial.world.edges[_current(trial, step)].stop_for(_seconds(step), clock_stops=bool(step.b % 2))
    return True


def _lie(trial: Trial, step: Step) -> bool:
    """One edge lies now and then, always the same one of a world."""
    name, world = trial.edge(trial.setting.seed), trial.world
    trial.history.liars.add(name)
    world.edges[name].lies = lambda: world.chance.random() < 0.3
    return True


def _replan(trial: Trial, step: Step) -> bool:
    device = _device(trial, step)
    lengths, flights = (0, 1, 3, 7), (1, 2, 64)
    plan = replace(
        device.session.plan,  # whether decisions are split is agreed on at the attach
        draft_length=lengths[step.a % 4],
        outstanding=flights[step.b % 3],
        waits=step.a % 8 > 3,
        own_draft=step.b % 6 < 3,
        provisional_s=HELD_S[int(step.share * 4) % 4] if device.wish.semantic is not None else 0.0,
    )
    device.soon(lambda: device.replans(plan))
    return True


FAULTS: dict[str, Fault] = {
    "cut": _cut,
    "cut amid a flight": _cut_amid,
    "no way": _refuse,
    "black hole": _black_hole,
    "outage": _outage,
    "slice": _slice,
    "replay": _replay,
    "thief": _thief,
    "kill edge": _kill_edge,
    "zombie edge": _strand,
    "half-close": _half_close,
    "kill device": _kill_device,
    "roll journal back": _roll_back,
    "lose journal": _lose_journal,
    "twin": _twin,
    "evict rows": _evict,
    "evict ids": _evict_ids,
    "refuse frame": _refuse_frame,
    "drain": _drain,
    "stop device": _stop_device,
    "stop edge": _stop_edge,
    "lie": _lie,
    "replan": _replan,
    "wait": _wait,
}


def happen(trial: Trial, step: Step) -> bool:
    """Let a step happen; say whether it was a fault that hit a text in the making. Raises Caught."""
    hit = trial.do(step.pause, lambda: FAULTS[step.kind](trial, step)) and step.kind != "wait"
    trial.applied[step.kind] += hit
    return hit


def _device(trial: Trial, step: Step) -> DeviceProcess:
    running = trial.world.running
    return running[step.a % len(running)]


def _stream(trial: Trial, step: Step) -> Stream | None:
    return _device(trial, step).stream
