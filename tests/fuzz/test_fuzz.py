"""The fuzzers find nothing with what they know at first, and they find bugs that are planted for them."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

pytest.importorskip("safetensors", reason="needs the edge's packages")
pytest.importorskip("cryptography", reason="needs the identity extra")

from airdraft.core.errors import MalformedFrame
from airdraft.core.session import DeviceSession
from airdraft.core.session.drafts import Drafts
from airdraft.core.session.judging import Judging
from airdraft.wire import convert, convert_device, convert_edge
from fuzz.__main__ import known
from fuzz.edge_attack import BY_FRAMES_ALONE, Tally, attack_device, attack_edge
from fuzz.harnesses import HARNESSES, Harness
from fuzz.mutations import mutate_bytes

Patch = pytest.MonkeyPatch


def played(name: str) -> None:
    """Run a harness over its seeds, and over a mutation or more of each."""
    harness: Harness = HARNESSES[name]
    seeds, random = list(harness.seeds()), Random(1)
    assert seeds
    for seed in seeds:
        harness.run(seed)
    for seed in seeds:
        for _ in range(max(1, 100 // len(seeds))):
            harness.run(harness.mutate(seed, random) if harness.mutate else mutate_bytes(seed, random, seeds))


@pytest.mark.parametrize("name", HARNESSES)
def test_a_harness_bears_its_seeds(name: str) -> None:
    played(name)


def test_the_command_line_knows_every_harness() -> None:
    assert known() == set(HARNESSES)


def no_bugs(tally: Tally) -> None:
    assert not tally.bugs, next(iter(tally.bugs.values()))
    assert not tally.internal_errors


def test_hostile_devices_at_an_edge() -> None:
    tally = attack_edge(14_000, 1)
    no_bugs(tally)
    assert tally.frames >= 14_000
    assert {code.name for code in BY_FRAMES_ALONE} <= set(tally.refusals)
    assert tally.answers["Commit"] > 1000  # deep in sessions, not at their doors
    assert tally.answers["NeedHidden"]
    assert 0.8 < tally.parsed / tally.frames < 1.0


def test_hostile_edges_at_a_device() -> None:
    tally = attack_device(6_000, 1)
    no_bugs(tally)
    assert 0.7 < tally.parsed / tally.frames < 1.0


def test_a_seed_gives_the_same_frames_again() -> None:
    first, second = attack_edge(1_000, 7), attack_edge(1_000, 7)
    assert (first.frames, first.refusals, first.answers) == (second.frames, second.refusals, second.answers)
    assert attack_edge(1_000, 8).refusals != first.refusals


# ---- planted ----


def ids_are_not_held_against_the_vocabulary(patch: Patch) -> None:
    def any_ids(values: Sequence[int], vocabulary: int, most: int, field: str = "ids") -> tuple[int, ...]:
        return tuple(values)

    patch.setattr(convert_device, "checked_ids", any_ids)
    patch.setattr(convert, "checked_ids", any_ids)


def a_sequence_number_is_packed_too_tightly(patch: Patch) -> None:
    right = Drafts.take

    def take(self: Drafts, draft: Any, *others: Any) -> Any:
        struct.pack("<H", draft.seq)
        return right(self, draft, *others)

    patch.setattr(Drafts, "take", take)


def credits_are_not_counted(patch: Patch) -> None:
    right = Drafts.take

    def take(self: Drafts, draft: Any, length: int, committed: Any, limits: Any) -> Any:
        from dataclasses import replace

        return right(self, draft, length, committed, replace(limits, live_nodes=1 << 20))

    patch.setattr(Drafts, "take", take)


def states_that_were_not_granted_are_read(patch: Patch) -> None:
    patch.setattr(Judging, "check", lambda self, draft: None)
    patch.setattr(Judging, "_rows", lambda self, data, count, seq=0: [memoryview(data)[:0].cast("f")[0]])


def any_receipt_is_good(patch: Patch) -> None:
    patch.setattr(hmac, "compare_digest", lambda mine, theirs: True)


def a_refusal_is_shown_as_it_comes(patch: Patch) -> None:
    patch.setattr(convert_edge, "checked_line", lambda value, field: value)


def a_commit_may_begin_anywhere(patch: Patch) -> None:
    right = DeviceSession._commit

    def commit(self: DeviceSession, frame: Any) -> Any:
        if frame.base != len(self.ids):
            del self._ids[frame.base :]
        return right(self, frame)

    patch.setattr(DeviceSession, "_commit", commit)


def a_device_believes_an_epoch_of_any_height(patch: Patch) -> None:
    from airdraft.core.session import device

    patch.setattr(device, "HIGHEST_EPOCH", 1 << 40)


EDGE_BUGS: tuple[Callable[[Patch], None], ...] = (
    ids_are_not_held_against_the_vocabulary,
    a_sequence_number_is_packed_too_tightly,
    credits_are_not_counted,
    states_that_were_not_granted_are_read,
)
DEVICE_BUGS: tuple[Callable[[Patch], None], ...] = (
    a_refusal_is_shown_as_it_comes,
    a_commit_may_begin_anywhere,
    a_device_believes_an_epoch_of_any_height,
)


@pytest.mark.parametrize("plant", EDGE_BUGS, ids=lambda plant: plant.__name__)
def test_a_bug_of_an_edge_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert found(attack_edge)


@pytest.mark.parametrize("plant", DEVICE_BUGS, ids=lambda plant: plant.__name__)
def test_a_bug_of_a_device_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert found(attack_device)


def found(attack: Callable[[int, int], Tally]) -> bool:
    return any(attack(1_000, seed).internal_errors for seed in range(1, 21))


def test_a_forged_receipt_is_found(monkeypatch: Patch) -> None:
    any_receipt_is_good(monkeypatch)
    with pytest.raises(AssertionError, match="forged"):
        played("receipts")


def test_an_error_that_nobody_expects_is_found(monkeypatch: Patch) -> None:
    def refused(message: Any) -> Any:
        raise MalformedFrame("two\nlines", field="frame")

    monkeypatch.setattr("airdraft.wire.convert.report_from_proto", refused)
    assert found(attack_edge)
