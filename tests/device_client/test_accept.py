"""``--accept semantic``: what the device asks for, tells and shows, against an edge that accepts whatever it grants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import EdgeUnreachable
from airdraft.core.meaning import pack_rows, unpack_rows
from airdraft.core.types import (
    Draft,
    Granted,
    Hidden,
    HiddenProtocol,
    Open,
    Report,
    Sampling,
    Semantic,
    StateKind,
)
from airdraft.settings import SettingsError
from airdraft.wire.describe import Description
from device_client.__main__ import app
from device_client.config import DeviceSettings
from device_client.drafters import DRAFTERS
from device_client.exits import Exit
from device_client.generate import generate, resume
from device_client.meaning import HIDDEN, asked_with, settings_with, shortfall, wish_of
from device_client.report import Report as Outcome
from tests.device_client.lax_edge import SPENT, LaxEdge, serving

PROMPT = "w1 w2 w3 w4"
CAP = 0.02
WIDTH = 3
GRANTED = Granted(CAP, "head")


class Stub:
    """Drafts what follows the last id by one, and has states and all the rest."""

    def __init__(self) -> None:
        self.state_width = WIDTH
        self.states: list[NDArray[np.float32]] = []
        self.confidences: list[float] = []
        self.tells_q = False
        self.q: list[SparseQ] = []

    def digest(self) -> bytes:
        return b"d" * 32

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        proposal = [(path[-1] + 1 + place) % 30 for place in range(count)]
        self.states = [state(token) for token in proposal]
        self.confidences = [0.5 if token % 2 else 1.0 for token in proposal]
        self.q = [SparseQ((token,), (65_535,)) for token in proposal] if self.tells_q else []
        return proposal

    def learn(self, ids: Sequence[int]) -> None:
        """Nothing is learned."""


def state(token: int) -> NDArray[np.float32]:
    return np.array([token, -token, 0.5], np.float32)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    drafter = Stub()

    def load(
        reference: str, revision: str | None, target: Description, sampling: Sampling, manifest: Path | None
    ) -> Stub:
        return drafter

    monkeypatch.setitem(DRAFTERS, "stub", load)
    return drafter


def settings_of(address: str, **given: Any) -> DeviceSettings:
    usual: dict[str, Any] = {
        "edge": address, "draft_model": "stub", "max_tokens": 12, "schedule": "sync", "accept": "semantic",
        "max_quality_loss": CAP, "reconnect_seconds": 5.0,
    }  # fmt: skip
    return DeviceSettings.load(usual | given)


async def answered(edge: LaxEdge, tmp_path: Path, journal: Path | None = None, **given: Any) -> Outcome:
    async with serving(edge) as address:
        return await generate(PROMPT, settings_of(address, **given), tmp_path, quiet=True, journal=journal)


def opens(edge: LaxEdge) -> list[Semantic | None]:
    return [frame.semantic for frame in edge.seen if isinstance(frame, Open)]


def drafts(edge: LaxEdge) -> list[Draft]:
    return [frame for frame in edge.seen if isinstance(frame, Draft) and frame.ids]


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"accept": "semantic"}, "max-quality-loss: .*share of answers"),
        ({"accept": "semantic", "max_quality_loss": 0}, "max-quality-loss: .*above 0"),
        ({"accept": "semantic", "max_quality_loss": -0.1}, "max-quality-loss: .*above 0"),
        ({"accept": "semantic", "max_quality_loss": float("nan")}, "max-quality-loss"),
        ({"accept": "semantic", "max_quality_loss": 1.5}, "max-quality-loss"),
        ({"accept": "lax", "max_quality_loss": 0.1}, "accept: "),
        ({"accept_rule": "guess"}, "accept-rule: .*head, typical, kl-judge"),
        ({"hidden": "all"}, "hidden: "),
        ({"state_kind": "int4"}, "state-kind: "),
    ],
)
def test_a_wish_that_is_none_is_refused_in_a_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        DeviceSettings.load(given)
    assert "\n" not in str(caught.value)


def test_without_a_cap_the_command_ends_with_the_code_for_usage() -> None:
    for options in (["--accept", "semantic"], ["--accept", "semantic", "--max-quality-loss", "0"]):
        result = CliRunner().invoke(app, ["generate", "hello", *options])
        assert result.exit_code == Exit.USAGE
        assert "max-quality-loss" in result.output


def test_the_wish_can_stand_in_the_environment_and_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[device_client]\naccept = 'semantic'\nmax_quality_loss = 0.5\nhidden = 'full-hidden'\n")
    monkeypatch.setenv("AIRDRAFT_DEVICE_MAX_QUALITY_LOSS", "0.25")
    monkeypatch.setenv("AIRDRAFT_DEVICE_STATE_KIND", "fp8")
    wish = wish_of(DeviceSettings.load({"accept_rule": "typical"}, config))
    assert wish == Semantic(0.25, "typical", HiddenProtocol.FULL_HIDDEN, state_kind=StateKind.FP8)
    assert wish_of(DeviceSettings.load({"accept": "exact"}, config)) is None


def test_a_wish_goes_into_settings_and_comes_out_of_them() -> None:
    settings = DeviceSettings.load({})
    for protocol in HIDDEN.values():
        wish = Semantic(0.125, "look-ahead", protocol, state_kind=StateKind.FP8)
        assert wish_of(settings_with(settings, wish)) == wish
    assert wish_of(settings_with(settings_with(settings, wish), None)) is None


def test_a_drafter_without_states_leaves_all_to_the_targets(stub: Stub) -> None:
    wish = Semantic(CAP, protocol=HiddenProtocol.FULL_HIDDEN)
    mine = asked_with(wish, stub)
    assert mine == replace(wish, drafter_digest=b"d" * 32, state_width=WIDTH)
    bare = DRAFTERS["ngram"]("ngram", None, None, None, None)  # type: ignore[arg-type]
    assert asked_with(wish, bare) == replace(wish, protocol=HiddenProtocol.TARGET_ONLY)
    assert asked_with(None, stub) is None


@pytest.mark.parametrize(("rule", "tells"), [("kl-judge", True), ("head", False)])
def test_a_drafter_says_what_it_chose_from_where_the_rule_asks(stub: Stub, rule: str, *, tells: bool) -> None:
    asked_with(Semantic(CAP, rule), stub)
    assert stub.tells_q == tells


# ---- a generation ----


async def test_tokens_are_accepted_by_meaning_counted_and_priced(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([GRANTED])
    report = await answered(edge, tmp_path)
    assert opens(edge) == [Semantic(CAP, "head", HiddenProtocol.TARGET_ONLY, b"d" * 32, WIDTH)]
    told = report.as_json()
    assert told["origins"]["meaning"] == told["meaning_tokens"] > 1
    assert told["spent_risk"] == pytest.approx(1 - (1 - SPENT) ** told["meaning_tokens"])
    assert (told["accept"], told["accept_rule"], told["max_quality_loss"]) == ("semantic", "head", CAP)
    assert f"accepted, {told['meaning_tokens']} of them by meaning (risk " in report.as_line()
    assert all(frame.states is None and frame.q is None for frame in drafts(edge))


async def test_exact_is_what_it_was(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([Granted()])
    report = await answered(edge, tmp_path, accept="exact", max_quality_loss=None)
    assert opens(edge) == [None]
    told = report.as_json()
    assert (told["accept"], told["meaning_tokens"], told["spent_risk"]) == ("exact", 0, 0.0)
    assert "meaning" not in report.as_line()


async def test_where_less_is_granted_the_text_goes_on_exact_and_says_why(
    tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    report = await answered(LaxEdge([Granted(reason="this edge has no head")]), tmp_path)
    told = report.as_json()
    assert (told["tokens"], told["meaning_tokens"], told["accept"]) == (12, 0, "exact")
    line = "device_client: nothing is accepted by meaning, the text is the target's own: this edge has no head\n"
    assert capsys.readouterr().err == line


async def test_an_edge_that_accepts_what_it_did_not_grant_is_at_fault(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([Granted(CAP, "typical")])
    with pytest.raises(EdgeUnreachable, match="nobody asked for"):
        await answered(edge, tmp_path, reconnect_seconds=0.2)


async def test_states_go_up_with_the_draft_once_granted(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([replace(GRANTED, protocol=HiddenProtocol.FULL_HIDDEN)])
    await answered(edge, tmp_path, hidden="full-hidden", state_kind="fp8")
    told = [frame for frame in drafts(edge) if frame.states is not None]
    assert len(told) >= len(drafts(edge)) - 1  # the first may have gone up before the grant came
    for frame in told:
        assert frame.states is not None
        assert frame.states.at == tuple(range(len(frame.ids)))
        assert frame.states.data == pack_rows([state(token) for token in frame.ids], StateKind.FP8)


async def test_margin_first_sends_the_states_of_doubtful_tokens(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([replace(GRANTED, protocol=HiddenProtocol.MARGIN_FIRST)])
    await answered(edge, tmp_path, hidden="margin-first")
    told = [frame for frame in drafts(edge) if frame.states is not None]
    assert told
    for frame in told:
        assert frame.states is not None
        assert [frame.ids[index] % 2 for index in frame.states.at] == [1] * len(frame.states.at)


async def test_mismatch_first_answers_what_the_edge_asks(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([replace(GRANTED, protocol=HiddenProtocol.MISMATCH_FIRST)], asks=True)
    await answered(edge, tmp_path, hidden="mismatch-first")
    answers = [frame for frame in edge.seen if isinstance(frame, Hidden)]
    assert len(answers) == len(drafts(edge)) > 1
    for frame, answer in zip(drafts(edge), answers, strict=True):
        assert frame.states is None
        row = unpack_rows(pack_rows([state(frame.ids[0])], StateKind.INT8), 1, WIDTH, StateKind.INT8)
        assert np.array_equal(unpack_rows(answer.data, 1, WIDTH, StateKind.INT8), row)


async def test_q_goes_up_for_a_rule_that_compares(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([Granted(CAP, "kl-judge")])
    await answered(edge, tmp_path, accept_rule="kl-judge")
    assert drafts(edge)
    for frame in drafts(edge):
        assert frame.q == tuple(SparseQ((token,), (65_535,)) for token in frame.ids)


async def test_the_edge_is_told_of_the_channel(tmp_path: Path, stub: Stub) -> None:
    edge = LaxEdge([GRANTED])
    await answered(edge, tmp_path, max_tokens=60)
    reports = [frame for frame in edge.seen if isinstance(frame, Report)]
    assert any(frame.round_trip_s for frame in reports)
    exact = LaxEdge([Granted()])
    await answered(exact, tmp_path, accept="exact", max_quality_loss=None, max_tokens=60)
    assert all(frame.round_trip_s is None for frame in exact.seen if isinstance(frame, Report))


# ---- going on ----


async def test_a_lost_stream_asks_again_and_takes_what_the_next_edge_grants(
    tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = LaxEdge([GRANTED, Granted(reason="the head is gone")], breaks_after=1)
    report = await answered(edge, tmp_path)
    assert len(opens(edge)) == 2
    assert len(set(opens(edge))) == 1
    told = report.as_json()
    assert told["tokens"] == 12
    assert told["accept"] == "exact"
    assert 0 < told["meaning_tokens"] < 5
    assert "the head is gone" in capsys.readouterr().err


async def test_a_resumed_text_asks_for_the_same_again(tmp_path: Path, stub: Stub) -> None:
    journal = tmp_path / "j"
    edge = LaxEdge([GRANTED], breaks_after=1, gone=True)
    with pytest.raises(EdgeUnreachable, match="no room"):
        await answered(edge, tmp_path, journal, reconnect_seconds=0.2, hidden="full-hidden")
    again = LaxEdge([GRANTED])
    async with serving(again) as address:
        told = DeviceSettings.load({"edge": address, "accept": "exact"})
        report = await resume(journal, told, tmp_path, quiet=True)
    assert opens(again) == [opens(edge)[0]]
    assert opens(again)[0] == Semantic(CAP, "head", HiddenProtocol.FULL_HIDDEN, b"d" * 32, WIDTH)
    assert report.session.stop is not None


async def test_a_resumed_exact_text_stays_exact(tmp_path: Path, stub: Stub) -> None:
    journal = tmp_path / "j"
    edge = LaxEdge([Granted()], breaks_after=1, gone=True)
    with pytest.raises(EdgeUnreachable, match="no room"):
        await answered(edge, tmp_path, journal, accept="exact", max_quality_loss=None, reconnect_seconds=0.2)
    again = LaxEdge([Granted()])
    async with serving(again) as address:
        await resume(journal, settings_of(address), tmp_path, quiet=True)
    assert opens(again) == [None]


@pytest.mark.parametrize(
    ("granted", "words"),
    [
        (Granted(CAP, "head", HiddenProtocol.FULL_HIDDEN), ""),
        (Granted(reason="no head"), "nothing is accepted by meaning, the text is the target's own: no head"),
        (Granted(), "nothing is accepted by meaning, the text is the target's own"),
        (Granted(CAP, "head"), "granted target-only, not full-hidden"),
        (Granted(0.01, "head", HiddenProtocol.FULL_HIDDEN, "x"), "granted a quality loss of 0.01 at most, not 0.02: x"),
    ],
)
def test_what_falls_short_is_said_in_a_line(granted: Granted, words: str) -> None:
    assert shortfall(Semantic(CAP, protocol=HiddenProtocol.FULL_HIDDEN), granted) == words
