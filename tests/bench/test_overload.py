"""The overload bench: devices that find no place come back as told, and every text is the target's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.core.types import Origin
from bench.capacity import passes_of
from bench.engine_paced import PacedPass
from bench.engine_paced_edge import paced_edge
from bench.figures import Result
from bench.overload import TOKENS, Stretch, Text, add_load, add_overload, measured
from coordinator.policy.costs import PassCost

LINE = PassCost(0.003, 0.0001)


def text(device: int, wanted_s: float, admitted_s: float, token_s: float) -> Text:
    return Text(device, wanted_s, 1, admitted_s, admitted_s + TOKENS * token_s)


def test_figures_are_what_they_are_called() -> None:
    full = Stretch([text(0, 0.0, 0.0, 0.02) for _ in range(20)], 0.0, 10.0)
    over = Stretch([text(0, 0.0, 3.0, 0.03), text(1, 1.0, 2.0, 0.03), Text(2, 4.0)], 0.0, 10.0)
    result = Result("overload")
    add_overload(result, full, over, 3)
    assert result.figures["overload_p95_over_full"] == pytest.approx(1.5)
    assert result.spread["overload_p95_over_full"] == (1.5, 1.5)
    assert result.figures["overload_starved"] == 1
    assert result.figures["overload_longest_wait_over_mean"] == pytest.approx(6 / (10 / 3), abs=1e-3)
    assert result.figures["overload_texts_over_full"] == pytest.approx(2 / 20, abs=1e-3)


def test_more_devices_than_places_all_get_their_texts(tmp_path: Path) -> None:
    log = tmp_path / "passes.log"
    with paced_edge(tmp_path, log, LINE, "bench.capacity_engine", ahead="speed", sessions=2) as address:
        over = measured(address, 5, 3.0, 0.0)
    written = [text for text in over.texts if text.session is not None]
    assert {text.device for text in written} == set(range(5))
    assert sum(text.refusals for text in over.texts) >= 3
    assert all(text.wanted_s <= text.admitted_s < text.ended_s for text in written)
    passes = passes_of(log)
    assert max(one.sessions for one in passes) <= 2
    result = Result("overload")
    add_load(result, "5", written, passes)
    assert 0 < result.figures["overload_ahead_share_5"] < 1
    assert 0 < result.figures["overload_draft_width_5"] < 8
    assert result.figures["overload_price_5"] > 1


def test_a_pass_of_bare_tokens_has_no_width(tmp_path: Path) -> None:
    log = tmp_path / "passes.log"
    with paced_edge(tmp_path, log, LINE, "bench.capacity_engine", ahead="speed", sessions=1) as address:
        alone = measured(address, 1, 1.0, 0.0)
    result = Result("overload")
    add_load(result, "1", alone.texts, [PacedPass(0.0, 0.003, 2, 2, 0.0), PacedPass(0.003, 0.006, 4, 2, 0.0)])
    assert result.figures["overload_draft_width_1"] == 0.5
    (session,) = [text.session for text in alone.texts if text.session is not None][:1]
    assert session.tally.committed == TOKENS == sum(session.tally.by_origin[origin] for origin in Origin)
