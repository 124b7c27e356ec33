"""The cores in virtual time: worked timelines, and what holds for every schedule, link and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.drafting import NgramDrafter
from airdraft.core.session import EdgeSession
from airdraft.core.session.device import Tally
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    Open,
    Opened,
    Origin,
    Pass,
    Plan,
    Prefix,
    Quote,
    Report,
    Sampling,
    Span,
    Timing,
)
from airdraft.link.bound import ClairvoyantBound
from airdraft.link.channels import CHANNELS
from airdraft.link.shaping import Constant, Interrupted, Shape
from airdraft.link.sim_costs import FRAMING_BYTES, IDEAL, Costs, Overheads, message_bytes
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import ELSEWHERE, MISSED, MatchDrafter, MatchRun, TextRows
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from airdraft.wire.convert import device_frame_to_proto, edge_frame_to_proto
from coordinator.policy.costs import PassCost, RoundCost

PASS = PassCost(0.030, 0.0003)
COSTS = Costs(0.008, by_positions(PASS.seconds), own_draft_s=0.008)
MICROSECOND = 1e-6
T, F = True, False


def run_of(matched: Sequence[bool]) -> MatchRun:
    return MatchRun(tuple(range(100, 100 + len(matched))), tuple(matched))


def by_chance(acceptance: float, tokens: int, seed: int) -> MatchRun:
    chance = Random(seed)
    return run_of([chance.random() < acceptance for _ in range(tokens)])


def link_of(round_trip_s: float, jitter_s: float = 0.0, seed: int = 1) -> Link:
    way = Shape(Constant(round_trip_s / 2), jitter_s=jitter_s)
    return Link.of(way, way, Random(seed))


def one(run: MatchRun, conduct: Conduct, round_trip_s: float, overheads: Overheads = IDEAL) -> SimulatedText:
    (text,) = World(COSTS, overheads).one_by_one([run], conduct, link_of(round_trip_s))
    return text


def sync(draft_length: int) -> Conduct:
    return Conduct(Plan(draft_length))


def edge_spec(draft_length: int) -> Conduct:
    return Conduct(Plan(0), own_draft_tokens=draft_length)


def per_second(texts: Sequence[SimulatedText]) -> float:
    return sum(text.tokens - 1 for text in texts) / sum(text.seconds for text in texts)


# ---- worked by hand: prompt of one token, 100 ms round trip, drafts 8 ms, a pass 30 ms and 0.3 ms a further position


TIMELINES = {
    # Open reaches the edge at 50, whose pass of 1 position ends at 80; the draft, written by 16, arrives at 66 and is
    # verified with the one token that is left of it by 110.3: two tokens. The device reads them at 160.3, drafts until
    # 176.3; arrival 226.3, pass of 3 positions until 256.9.
    "sync, all matched": (sync(2), [T] * 6, [(0.130, 1), (0.1603, 2), (0.3069, 3)]),
    # As above until the third frame, whose first token is missed: the pass yields one token. One more is worth a draft:
    # 314.9, 364.9, pass of 2 positions until 395.2.
    "sync, a miss": (sync(2), [T, T, T, F, T, T], [(0.130, 1), (0.1603, 2), (0.3069, 1), (0.4452, 2)]),
    # The first frame misses at once; the token that corrects it is read at 130, and the next frame arrives at 196.
    "sync, a miss at once": (sync(2), [F, T, T], [(0.130, 1), (0.130 + 0.008 + 0.050 + 0.0303 + 0.050, 2)]),
    # One position a pass, streamed.
    "edge alone": (sync(0), [F] * 4, [(0.130, 1), (0.160, 1), (0.190, 1), (0.220, 1)]),
    # After the first token the edge drafts until 96 and verifies three positions until 126.6; then one draft is worth
    # writing, by 134.6, and two positions end at 164.9.
    "edge-spec": (edge_spec(2), [T] * 6, [(0.130, 1), (0.1766, 3), (0.2149, 2)]),
    # Drafted until 96, missed at once by 126.6; drafted until 142.6, three positions until 173.2.
    "edge-spec, a miss": (edge_spec(2), [T, F, T, T, T], [(0.130, 1), (0.1766, 1), (0.2232, 3)]),
}


@pytest.mark.parametrize("name", TIMELINES)
def test_a_timeline_worked_by_hand(name: str) -> None:
    conduct, matched, expected = TIMELINES[name]
    text = one(run_of(matched), conduct, 0.100)
    assert [count for _, count in text.arrivals] == [count for _, count in expected]
    assert [when for when, _ in text.arrivals] == pytest.approx([when for when, _ in expected], abs=MICROSECOND)


def test_the_seconds_and_tokens_of_a_worked_timeline() -> None:
    text = one(run_of([T, T, T, F, T, T]), sync(2), 0.100)
    assert text.passes == 4
    assert text.pass_s == pytest.approx(0.030 + 0.0303 + 0.0306 + 0.0303)
    assert text.draft_s == pytest.approx(5 * 0.008)
    assert (text.drafted, text.accepted) == (5, 3)
    assert text.first_token_s == pytest.approx(0.130)
    assert text.seconds == pytest.approx(0.4452 - 0.130)


def test_edge_drafts_count_as_drafted_and_as_the_edges_seconds() -> None:
    text = one(run_of([T, F, T, T, T]), edge_spec(2), 0.100)
    assert (text.drafted, text.accepted, text.draft_s) == (4, 2, 0.0)
    assert text.pass_s == pytest.approx(0.030 + 2 * 0.0306 + 4 * 0.008)


def test_each_overhead_is_paid_where_it_belongs() -> None:
    overheads = Overheads(up_s=0.001, down_s=0.002, round_s=0.004, pass_s=0.008, draft_step_s=0.016)
    text = one(run_of([T] * 30), sync(3), 0.100, overheads)
    drafts, passes = 3 * (0.008 + 0.016), 0.0309 + 0.008
    arrivals = [when for when, _ in text.arrivals]
    assert arrivals[-2] - arrivals[-3] == pytest.approx(0.004 + drafts + 0.050 + 0.001 + passes + 0.050 + 0.002)
    assert text.first_token_s == pytest.approx(0.050 + 0.001 + 0.030 + 0.008 + 0.050 + 0.002)
    text = one(run_of([T] * 30), edge_spec(3), 0.100, overheads)
    arrivals = [when for when, _ in text.arrivals]
    assert arrivals[2] - arrivals[1] == pytest.approx(drafts + passes)


def test_a_draft_that_is_void_is_cut_in_the_midst_of_a_token() -> None:
    """The first token is there at 30 ms and voids a draft of eight in its fourth, which is given up."""
    text = one(run_of([F] * 12), sync(8), 0.0)
    assert text.arrivals[0][0] == pytest.approx(0.030)
    assert text.arrivals[1][0] == pytest.approx(0.030 + 8 * 0.008 + PASS.seconds(9))
    assert text.draft_s == pytest.approx(0.030 + (8 + 8 + 8 + 7 + 6 + 5 + 4 + 3 + 2 + 1) * 0.008)  # 30 ms were given up


def test_frames_take_their_time_on_a_slow_link() -> None:
    first = message_bytes(opened_by(1)) + message_bytes(Prefix(1, 0, (0,))) + 2 * FRAMING_BYTES
    way = Shape(Constant(0.050, bytes_s=1000.0))
    link = Link.of(way, way, Random(1))
    (text,) = World(COSTS).one_by_one([run_of([F] * 4)], sync(0), link)
    commit = FRAMING_BYTES + message_bytes(Commit(1, 1, (5,), 2, bytes(8), 0, (Origin.RUN_AHEAD,)))
    down = 0.050 + commit / 1000
    assert text.first_token_s == pytest.approx(first / 1000 + 0.050 + 0.030 + down)
    assert text.seconds == pytest.approx(3 * commit / 1000)  # a pass is quicker than its commit's bytes
    assert text.bytes_down == message_bytes(Opened(1, 0, 1, Limits(64))) + 4 * (commit - FRAMING_BYTES)


def test_a_link_that_never_comes_back_is_an_error() -> None:
    out = Shape(Interrupted(Constant(0.01), ((0.1, float("inf")),)))
    with pytest.raises(ValueError, match="out for good"):
        World(COSTS).one_by_one([run_of([T] * 40)], sync(4), Link.of(out, out, Random(1)))


# ---- many sessions ----


def test_sessions_take_turns() -> None:
    runs = [run_of([F] * 3), run_of([F] * 3)]
    first, second = World(COSTS).fleet(runs, [0.0, 0.0], sync(0), lambda _: link_of(0.0))
    assert [when for when, _ in first.arrivals] == pytest.approx([0.030, 0.090, 0.150])
    assert [when for when, _ in second.arrivals] == pytest.approx([0.060, 0.120, 0.180])


def test_a_step_packs_the_passes_of_several_sessions() -> None:
    world = World(COSTS, sessions_a_step=3)
    runs = [run_of([F] * 3) for _ in range(3)]
    texts = world.fleet(runs, [0.0, 0.001, 0.002], sync(0), lambda _: link_of(0.0))
    three = PASS.seconds(3)  # the first one starts alone, the second step waits for none but takes the two others
    assert [when for when, _ in texts[0].arrivals] == pytest.approx([0.030, 0.030 + three, 0.030 + 2 * three])
    assert [when for when, _ in texts[2].arrivals] == pytest.approx(
        [0.030 + three, 0.030 + 2 * three, 0.030 + 2 * three + PASS.seconds(2)]
    )
    assert sum(text.pass_s for text in texts) == pytest.approx(0.030 + 2 * three + PASS.seconds(2))


def test_who_has_drafts_to_wait_for_does_not_lose_its_turn() -> None:
    world = World(COSTS, sessions_a_step=2)
    runs = [by_chance(0.5, 20, seed) for seed in range(3)]
    texts = world.fleet(runs, [0.0] * 3, edge_spec(2), lambda _: link_of(0.01))
    assert [text.tokens for text in texts] == [20] * 3
    assert max(text.seconds for text in texts) < 1.5 * min(text.seconds for text in texts)


def test_no_session_starves() -> None:
    runs = [by_chance(0.5, 20, seed) for seed in range(12)]
    starts = [0.0] * 11 + [0.5]
    texts = World(COSTS).fleet(runs, starts, edge_spec(3), lambda _: link_of(0.02))
    assert texts[11].first_token_s < 12 * 2 * (0.030 + 3 * 0.009)


# ---- whatever the schedule ----


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.017, 0.1, 0.3]),
    st.sampled_from([0.0, 0.03]),
    st.integers(1, 30),
    st.sampled_from([0.002, 0.008, 0.05]),
)
def test_any_schedule_writes_the_text_and_none_beats_the_bound(
    matched: list[bool],
    draft_length: int,
    outstanding: int,
    own: int,
    round_trip_s: float,
    jitter_s: float,
    ahead: int,
    draft_s: float,
) -> None:
    run = run_of(matched)
    conduct = Conduct(Plan(draft_length, outstanding), Limits(1 << 20, ahead_tokens=ahead), own_draft_tokens=own)
    world = World(Costs(draft_s, by_positions(PASS.seconds), draft_s))
    (text,) = world.one_by_one([run], conduct, link_of(round_trip_s, jitter_s))  # it asserts the text
    assert text.tokens == len(matched)
    times = [when for when, _ in text.arrivals]
    assert times == sorted(times)
    assert 0 <= text.accepted <= text.drafted
    if own or jitter_s:
        return
    bound = ClairvoyantBound(round_trip_s, draft_s, PASS.seconds)
    begun = 0.0 if text.arrivals[0][1] == 1 else PASS.seconds(len(matched))  # more came with the first one
    least = bound.run_s(matched[1:], head_start_s=round_trip_s + PASS.seconds(10))
    assert text.seconds + begun >= least - MICROSECOND


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_text_comes_over_every_channel(channel: str) -> None:
    made = CHANNELS[channel](3, 60.0)
    for conduct in (sync(4), edge_spec(4), sync(0)):
        link = Link.of(Shape(made.up), Shape(made.down), Random(2))
        texts = World(COSTS).one_by_one([by_chance(0.7, 60, seed) for seed in range(3)], conduct, link)
        assert [text.tokens for text in texts] == [60] * 3


def test_a_text_that_ends_with_a_stop_id() -> None:
    run = MatchRun((5, 6, 7, 2), (T, T, F, T), prompt=(9, 9, 9), stop_ids=(2,), max_tokens=50)
    for conduct in (sync(4), edge_spec(4), Conduct(Plan(3, outstanding=2)), sync(0)):
        assert one(run, conduct, 0.05).tokens == 4


def test_an_edge_may_look_up_what_followed_before() -> None:
    run = MatchRun((5, 6, 7, 8) * 10, (F,) * 40)
    lookup = Conduct(Plan(0), own_draft_tokens=4, own_drafter=lambda run: NgramDrafter())
    world = World(Costs(0.008, by_positions(PASS.seconds)))
    (text,) = world.one_by_one([run], lookup, link_of(0.05))
    assert text.accepted > 20
    assert text.seconds < 39 * 0.030 / 2


# ---- against the models, and itself ----

ACCEPTANCE = 0.8


@pytest.mark.parametrize(
    ("conduct", "model"),
    [
        (sync(5), lambda cost: cost.split_s(5)),
        (sync(0), lambda cost: cost.edge_alone_s()),
        (edge_spec(3), lambda cost: cost.edge_drafter_s(3, 0.008)),
    ],
)
@pytest.mark.parametrize("rtt_ms", [0, 30, 300])
def test_matches_by_chance_go_as_the_models_say(
    conduct: Conduct, model: Callable[[RoundCost], float], rtt_ms: int
) -> None:
    runs = [by_chance(ACCEPTANCE, 1000, seed) for seed in range(12)]
    texts = World(COSTS).one_by_one(runs, conduct, link_of(rtt_ms / 1000))
    cost = RoundCost(rtt_ms / 1000, 0.008, PASS, ACCEPTANCE)
    assert per_second(texts) * model(cost) == pytest.approx(1, abs=0.02)  # 3,500 rounds scatter by 0.7 %


def test_the_same_seeds_give_the_same_seconds() -> None:
    def texts(seed: int) -> list[SimulatedText]:
        runs = [by_chance(0.6, 50, number) for number in range(4)]
        return World(COSTS).one_by_one(runs, Conduct(Plan(4, outstanding=2)), link_of(0.04, 0.02, seed))

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


# ---- the given text ----


def test_the_drafter_follows_the_run_and_misses_off_the_text() -> None:
    drafter = MatchDrafter(MatchRun((5, 6, 7, 8), (T, F, T, T), prompt=(1, 2)))
    assert drafter.propose((1, 2), 4, lambda: False) == [5, MISSED, MISSED, MISSED]
    assert drafter.propose((1, 2, 5, 6), 2, lambda: False) == [7, 8]
    assert drafter.propose((1, 2, 5, MISSED), 2, lambda: False) == [MISSED] * 2
    assert drafter.propose((1, 2, 5, 6, 7, 8), 2, lambda: False) == [MISSED] * 2


def test_rows_answer_for_what_they_hold() -> None:
    rows = TextRows(MatchRun((5, 6, 7, 8), (T,) * 4, prompt=(1, 2)))
    assert rows.extend(Span(0, (1, 2), wanted=(1,))) == (5,)
    assert rows.extend(Span(2, (5, 6, MISSED), wanted=(0, 1, 2))) == (6, 7, ELSEWHERE)
    assert rows.extend(Span(4, (7,), wanted=(0,))) == (8,)
    assert rows.extend(Span(3, (7,), wanted=(0,))) == (ELSEWHERE,)  # a row too few
    assert rows.extend(Span(4, (7,), wanted=(0,))) == (ELSEWHERE,)  # and what stands on it
    with pytest.raises(IndexError):
        rows.extend(Span(6, (7,), wanted=(0,)))


def test_rows_of_a_tree_are_judged_by_their_parents_and_gathered() -> None:
    rows = TextRows(MatchRun((5, 6, 7, 8), (T,) * 4, prompt=(1, 2)))
    tree = Span(0, (1, 2, 9, 5, 9, 6), parents=(-1, 0, 1, 1, 3, 3), wanted=(1, 2, 3, 4, 5))
    assert rows.extend(tree) == (5, ELSEWHERE, 6, ELSEWHERE, 7)
    assert rows.extend(Span(4, (7,), wanted=(0,), gather=(3, 5))) == (8,)
    assert rows.extend(Span(4, (7,), wanted=(0,), gather=(3, 2))) == (ELSEWHERE,)  # the wrong way round


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MatchRun((), ()),
        lambda: MatchRun((5,), (T, F)),
        lambda: MatchRun((5,), (T,), prompt=()),
        lambda: MatchRun((MISSED,), (T,)),
        lambda: MatchRun((2, 5), (T, T), stop_ids=(2,)),
        lambda: MatchRun((5, 6), (T, T), max_tokens=1),
        lambda: MatchRun((5, 6), (T, T), max_tokens=3),
    ],
)
def test_what_is_no_text_is_refused(wrong: Callable[[], MatchRun]) -> None:
    with pytest.raises(ValueError, match=r"a run has|ids are below|may end it|ends with"):
        wrong()


# ---- bytes ----


def opened_by(prompt_length: int) -> Open:
    identity = Identity(b"m" * 32, b"t" * 32)
    return Open(b"s" * 16, 1, identity, Sampling(1.0, 1 << 60), (2,), 128, prompt_length, prompt_length, b"d" * 32, 0)


@pytest.mark.parametrize("length", [30, 300])
@pytest.mark.parametrize("ids", [0, 1, 4, 9])
def test_frames_have_the_bytes_of_the_wire(length: int, ids: int) -> None:
    tokens = tuple(range(500, 500 + ids))
    up: list[DeviceFrame] = [
        opened_by(length),
        Prefix(1, 0, tuple(range(length))),
        Draft(1, 9, length, length, b"h" * 8, tokens, idle=not ids),
        Finish(1, length),
    ]
    down: list[EdgeFrame] = [
        Opened(1, 0, length, Limits(4096)),
        Commit(1, length, tokens, length + ids, b"h" * 8, 9, (Origin.ACCEPTED,) * ids, None, Timing(0.0002, 0.03)),
    ]
    sizes = [device_frame_to_proto(frame).ByteSize() for frame in up]
    sizes += [edge_frame_to_proto(frame).ByteSize() for frame in down]
    for frame, size in zip([*up, *down], sizes, strict=True):
        assert abs(message_bytes(frame) - size) <= 6, frame


# ---- devices that plan, edges that quote


class Wheel:
    """Steers by orders: a plan from some commit on; and notes what it is told."""

    def __init__(self, *plans: Plan) -> None:
        self.conduct, self._next = plans[0], list(plans[1:])
        self.frames: list[DeviceFrame] = []
        self.trips: list[float | None] = []
        self.asks = 0  # for so many pings beside the first
        self.drafts: list[tuple[int, float]] = []
        self.quotes: list[Quote | None] = []
        self.texts = 0

    def begins(self) -> None:
        self.texts += 1

    def sent(self, frame: DeviceFrame, size_bytes: int, at_s: float) -> None:
        assert size_bytes == message_bytes(frame) + FRAMING_BYTES
        self.frames.append(frame)

    def drafted(self, tokens: int, seconds: float, at_s: float) -> None:
        self.drafts.append((tokens, seconds))

    @property
    def wants_ping(self) -> bool:
        return self.asks > 0

    def pings(self) -> None:
        self.asks -= 1

    def pinged(self, round_trip_s: float | None, at_s: float) -> None:
        self.trips.append(round_trip_s)

    @property
    def channel(self) -> tuple[float | None, float | None, float | None]:
        return None, None, None

    def received(self, frame: EdgeFrame, tally: Tally, at_s: float) -> Plan | None:
        self.quotes.append(frame.quote if isinstance(frame, (Opened, Commit)) else None)
        if isinstance(frame, Commit) and self._next:
            self.conduct = self._next.pop(0)
            return self.conduct
        return None


class Rising:
    """Quotes a dearer edge each time it is asked, and drafts as many tokens as it is told after the first pass."""

    def __init__(self, own_tokens: int) -> None:
        self._own_tokens, self._price = own_tokens, 1.0

    def begins(self, session: EdgeSession) -> None:
        self._session = session
        session.own_draft_tokens = 0

    def quote(self, now_s: float, *, opened: bool) -> Quote | None:
        self._price += 1
        return Quote(PASS.fixed_s, PASS.per_position_s, runs_ahead=True, edge_second_price=self._price)

    def passed(self, work: Pass, frames: Sequence[EdgeFrame]) -> None:
        self._session.own_draft_tokens = self._own_tokens


def steered(wheel: Wheel, run: MatchRun, own_tokens: int = 0) -> SimulatedText:
    conduct = Conduct(
        wheel.conduct,
        run_ahead=True,
        overtaking=True,
        own_draft_tokens=own_tokens,
        steering=wheel,
        terms=lambda world, run: Rising(own_tokens),
    )
    return one(run, conduct, 0.1)


def test_a_device_that_plans_changes_its_ways_amid_a_text_and_tells_the_edge() -> None:
    wheel = Wheel(Plan(1, 64), Plan(4, waits=True), Plan(4, waits=True, own_draft=False), Plan(0))
    text = steered(wheel, by_chance(0.8, 80, seed=1))
    assert text.tokens == 80
    wishes = [(frame.waits, frame.own_draft) for frame in wheel.frames if isinstance(frame, Report)]
    assert wishes == [(True, True), (True, False), (False, True)]
    assert wheel.texts == 1


def test_an_edge_that_is_asked_to_wait_goes_ahead_of_no_draft() -> None:
    run = by_chance(0.8, 80, seed=2)
    waited = steered(Wheel(Plan(4, waits=True)), run)
    assert waited.passes == pytest.approx(one(run, sync(4), 0.1).passes, abs=1)
    assert steered(Wheel(Plan(4)), run).passes > 2 * waited.passes


def test_a_device_that_plans_hears_quotes_round_trips_and_its_own_pace() -> None:
    wheel = Wheel(Plan(1, 64))
    steered(wheel, by_chance(0.8, 60, seed=3))
    prices = [quote.edge_second_price for quote in wheel.quotes if quote is not None]
    assert prices == sorted(prices)
    assert prices[0] == 2.0
    assert len(prices) > 5
    assert wheel.trips == [pytest.approx(0.1)]
    assert wheel.drafts
    assert all(seconds == pytest.approx(0.008 * tokens) for tokens, seconds in wheel.drafts)


def test_a_device_that_wants_to_know_the_round_trip_pings() -> None:
    wheel = Wheel(Plan(0))
    wheel.asks = 3
    steered(wheel, by_chance(0.8, 60, seed=3))
    assert wheel.trips == [pytest.approx(0.1)] * 4


def test_the_edge_drafts_as_many_tokens_as_its_terms_say() -> None:
    run = by_chance(0.9, 80, seed=4)
    assert steered(Wheel(Plan(0)), run, own_tokens=4).passes < 0.5 * steered(Wheel(Plan(0)), run).passes
