"""Both cores of a semantic session in virtual time: valid texts, nothing lost, doubled or taken back."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.receipts import ReceiptKey
from airdraft.core.types import Commit, HiddenProtocol, Limits, NeedHidden, Opened, Origin
from tests.core.semantic_worlds import (
    ASKED,
    SemanticPair,
    asked_with_states,
    check_text,
    harm,
    origins_of,
    semantic_device,
)
from tests.core.worlds import VOCABULARY, alone, noisy_draft, pseudo_target

PROMPT = (1, 2, 3)
TOKENS = 1500
DEADLINES_S = (0.0, 0.004, 0.02, 0.1, 30.0)


def a_pair(
    acceptance: float, *, provisional_s: float = 0.0, max_tokens: int = 40, stop_ids: tuple[int, ...] = (),
    draft_length: int = 2, outstanding: int = 8, limits: Limits | None = None,
    protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY, **world: object,
) -> SemanticPair:  # fmt: skip
    limits = limits or Limits(4096)
    device = semantic_device(
        PROMPT,
        draft_length=draft_length,
        outstanding=outstanding,
        max_tokens=max_tokens,
        stop_ids=stop_ids,
        provisional_s=provisional_s,
        limits=limits,
        semantic=ASKED if protocol is HiddenProtocol.TARGET_ONLY else asked_with_states(protocol),
    )
    return SemanticPair(device, pseudo_target, noisy_draft(acceptance), limits, **world)  # type: ignore[arg-type]


worlds = st.fixed_dictionaries(
    {
        "acceptance": st.sampled_from([0.0, 0.5, 0.8, 1.0]),
        "provisional_s": st.sampled_from(DEADLINES_S),
        "max_tokens": st.integers(0, 50),
        "stop_ids": st.lists(st.integers(0, VOCABULARY - 1), max_size=2).map(tuple),
        "draft_length": st.integers(0, 6),
        "outstanding": st.integers(1, 8),
        "limits": st.builds(
            Limits, st.just(4096), live_nodes=st.sampled_from([4, 16, 256]), ahead_tokens=st.sampled_from([2, 8, 64])
        ),
        "up": st.sampled_from([0.0, 0.01, 0.06]).map(lambda seconds: lambda: seconds),
        "draft_s": st.sampled_from([0.0005, 0.003]),
        "ahead": st.booleans(),
        "bonus": st.booleans(),
        "protocol": st.sampled_from(HiddenProtocol),
    }
)


def live_through(pair: SemanticPair, chance: Random, *, faults: int) -> None:
    """Let a text be written while links are cut, caches evicted and edges lost."""
    epoch = 1
    pair.attach(epoch)
    for _ in range(faults):
        pair.run(seconds=chance.choice([0.003, 0.02, 0.08]))
        if pair.device.ended:
            return
        kind = chance.randrange(5)
        if kind == 0:
            pair.evict(ids_too=chance.random() < 0.3)
        elif kind <= 2:
            pair.cut()
            pair.run(seconds=chance.choice([0.0, 0.03]))
            if kind == 2:
                pair.replace_edge()
            epoch += 1
            pair.attach(epoch, with_prefix=chance.random() < 0.5)
        else:
            pair.device_plans(replace(pair.device.plan, provisional_s=chance.choice(DEADLINES_S)))
    pair.run(seconds=200.0)


@settings(max_examples=300, deadline=None)
@given(worlds, st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(0, 4), st.randoms(use_true_random=False))
def test_every_text_is_valid_and_whole(world: dict[str, object], share: float, faults: int, chance: Random) -> None:
    pair = a_pair(**world, share=share)  # type: ignore[arg-type]
    live_through(pair, chance, faults=faults)
    assert not pair.lost
    assert pair.device.ended
    ids = pair.device.ids
    check_text(ids, origins_of(pair, len(PROMPT)), len(PROMPT), share)
    if share == 0:
        assert list(ids) == alone(PROMPT, world["max_tokens"], world["stop_ids"])  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(worlds)
def test_tolerance_nought_is_exact_frame_for_frame(world: dict[str, object]) -> None:
    world["protocol"] = HiddenProtocol.TARGET_ONLY  # who grants nothing asks for no states
    exact = a_pair(**world, exact=True)  # type: ignore[arg-type]
    nought = a_pair(**world, max_loss=0.0)  # type: ignore[arg-type]
    for pair in (exact, nought):
        pair.attach(1)
        pair.run(seconds=200.0)
    assert exact.passes == nought.passes
    assert not any(work.judged for work in nought.passes)
    said = [replace(frame, granted=Opened(1, 0, 0, exact.limits).granted) if isinstance(frame, Opened) else frame
            for frame in nought.answered]  # fmt: skip
    assert exact.answered == said


@pytest.mark.parametrize("protocol", HiddenProtocol)
def test_every_protocol_lets_the_same_tokens_stand(protocol: HiddenProtocol) -> None:
    texts = []
    for kind in (HiddenProtocol.TARGET_ONLY, protocol):
        pair = a_pair(0.5, protocol=kind, share=0.6, draft_length=4, outstanding=1, max_tokens=100, ahead=False)
        pair.attach(1)
        pair.run(seconds=200.0)
        texts.append(list(pair.device.ids))
        assert any(isinstance(frame, NeedHidden) for frame in pair.answered) == (kind is HiddenProtocol.MISMATCH_FIRST)
        assert Origin.MEANING in origins_of(pair, len(PROMPT))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("provisional_s", [0.0, 30.0])
def test_a_judge_that_lets_all_stand_leaves_the_drafted_line(provisional_s: float) -> None:
    draft = noisy_draft(0.5)
    pair = a_pair(0.5, provisional_s=provisional_s, max_tokens=120, draft_length=1, ahead=provisional_s > 0)
    pair.attach(1)
    pair.run(seconds=200.0)
    ids, origins = pair.device.ids, origins_of(pair, len(PROMPT))
    assert Origin.RECOVERED not in origins[4:-1]
    drafted = [draft(ids[:at]) == ids[at] for at in range(len(PROMPT), len(ids))]
    assert all(was or origin in (Origin.BONUS, Origin.RUN_AHEAD) for was, origin in zip(drafted, origins, strict=True))
    assert sum(drafted) >= 0.9 * len(drafted)
    assert origins.count(Origin.MEANING) > 30
    assert pair.device.tally.missed <= 2


def test_a_perfect_drafter_loses_nothing_by_provisional_tokens() -> None:
    pairs = [a_pair(1.0, provisional_s=seconds, max_tokens=200, draft_length=1) for seconds in (0.0, 30.0)]
    for pair in pairs:
        pair.attach(1)
        pair.run(seconds=200.0)
        assert list(pair.device.ids) == alone(PROMPT, 200)
        assert pair.device.tally.missed == 0
    assert len(pairs[1].passes) <= 1.1 * len(pairs[0].passes)


def seconds_of(share: float, provisional_s: float, rtt_s: float) -> tuple[float, SemanticPair]:
    pair = a_pair(
        0.8, provisional_s=provisional_s, max_tokens=TOKENS, draft_length=1, outstanding=64, share=share,
        up=lambda: rtt_s / 2, down=lambda: rtt_s / 2, draft_s=0.008, pass_s=lambda n: 0.03 * (1 + 0.01 * (n - 1)),
    )  # fmt: skip
    pair.attach(1)
    pair.run(seconds=200.0)
    assert pair.device.ended
    return pair.ended_s, pair


@pytest.mark.slow
def test_provisional_run_ahead_is_faster_than_committing_where_half_of_the_misses_are_harmless() -> None:
    held, pair = seconds_of(0.5, 1.0, 0.03)
    committing, _ = seconds_of(0.5, 0.0, 0.03)
    exact, _ = seconds_of(0.0, 0.0, 0.03)
    assert held < committing < exact
    assert any(work.own and work.judged for work in pair.passes)


@pytest.mark.parametrize("provisional_s", DEADLINES_S)
def test_where_nothing_stands_the_text_is_exact_whatever_the_deadline(provisional_s: float) -> None:
    pair = a_pair(0.6, provisional_s=provisional_s, max_tokens=150, share=0.0)
    pair.attach(1)
    pair.run(seconds=200.0)
    assert list(pair.device.ids) == alone(PROMPT, 150)


def test_what_was_spent_goes_from_edge_to_edge_with_the_receipt() -> None:
    pair = a_pair(0.5, max_tokens=150, receipts=ReceiptKey(b"k" * 32))
    pair.attach(1)
    pair.run(seconds=0.3)
    before = pair.judged[-1].spent
    assert before > 0
    pair.cut()
    known = pair.device.tally.spent
    pair.replace_edge()
    pair.attach(2)
    pair.run(seconds=200.0)
    assert pair.device.ended
    assert len(pair.judged) == 2
    assert pair.judged[-1].spent > known > 0
    last = next(frame for frame in reversed(pair.answered) if isinstance(frame, Commit))
    assert last.spent == pair.judged[-1].spent
    assert len(last.receipt) == 28


def test_the_oracle_is_spread_evenly() -> None:
    assert 0.4 < sum(harm((1, token), token) for token in range(1000)) / 1000 < 0.6
