"""The engine bench: contestants are asked the same and paired right, and shares are shares of what they say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from subprocess import Popen
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the bench's packages")

from airdraft.link.pacing import Pacer
from airdraft.wire.client import EdgeConnection
from bench.engine_devices import write_texts
from bench.engine_ours import Account, OurEngine
from bench.engine_paced import Busy, Fleet, KnownText, PacedPass, busy
from bench.engine_paced_engine import PacedRunner
from bench.engine_peers import HfGenerate
from bench.engine_rounds import Entrant, Rounds, entered
from bench.engine_shape import TINY, interleaved, prompts, write_checkpoint
from bench.engine_table import fill, fitted_line, ragged
from bench.engine_texts import Job, Written, agreement, job_of, written, written_of
from bench.figures import Result
from coordinator.policy.costs import PassCost
from edge_node.engine.loading import load_target
from edge_node.step import Drafted, DraftStep, Step, StepDone
from tests.system.loopback import edge_on_loopback

LINE = PassCost(0.02, 0.001)
JOB = Job(texts=3, prompt_tokens=20, new_tokens=6, vocabulary=TINY.vocabulary, seed=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(TINY, folder)
    return folder


# ---- the model and its texts ----


def test_a_shape_is_the_same_bytes_every_time(checkpoint: Path, tmp_path: Path) -> None:
    write_checkpoint(TINY, tmp_path)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (checkpoint / name).read_bytes()


def test_llama_cpp_turns_neighbours_where_transformers_turns_halves() -> None:
    heads, width, columns = 3, 8, 5
    weights = np.arange(heads * width * columns, dtype=np.float32).reshape(heads * width, columns)
    halves, pairs = weights.reshape(heads, width, columns), interleaved(weights, heads).reshape(heads, width, columns)
    for pair in range(width // 2):
        np.testing.assert_array_equal(pairs[:, 2 * pair], halves[:, pair])
        np.testing.assert_array_equal(pairs[:, 2 * pair + 1], halves[:, pair + width // 2])


def test_our_engine_writes_what_transformers_does(checkpoint: Path) -> None:
    engine, peer = OurEngine(checkpoint), HfGenerate(checkpoint)
    mine, theirs = engine.write(JOB), peer.write(JOB)
    assert agreement(mine.ids, theirs.ids) == 1
    assert len(set(mine.ids[0])) > 1  # else agreement says little
    assert mine.decode_tokens == theirs.decode_tokens == JOB.texts * (JOB.new_tokens - 1)
    assert engine.account.positions == JOB.texts * (JOB.prompt_tokens + JOB.new_tokens - 1)
    fill(engine, np.random.default_rng(1))
    accounts = ragged(engine, 8, np.random.default_rng(0))
    assert len(accounts) == 8
    assert all(one.seconds >= one.host_s > 0 and one.computed >= one.positions > 0 for one in accounts)
    assert accounts[7].positions > 64  # a prompt was among them


@pytest.mark.parametrize("draft_length", [0, 4])
async def test_devices_write_it_over_grpc(checkpoint: Path, draft_length: int) -> None:
    known = [
        KnownText(prompt, ids) for prompt, ids in zip(JOB.prompts, OurEngine(checkpoint).write(JOB).ids, strict=True)
    ]
    async with edge_on_loopback(load_target(str(checkpoint))) as edge, EdgeConnection(edge.address) as connection:
        heard = await write_texts(
            [connection],
            edge.description,
            JOB.prompts,
            [text.noisy(JOB.vocabulary) for text in known],
            new_tokens=JOB.new_tokens,
            draft_length=draft_length,
        )
    assert [tuple(text.ids) for text in heard] == [text.ids for text in known]
    for text in heard:
        assert sum(text.commit_tokens) == len(text.token_arrivals_s) == JOB.new_tokens
        assert len(text.commit_tokens) == JOB.new_tokens or draft_length


def test_prompts_follow_from_the_seed() -> None:
    assert prompts(2, 5, 100, seed=1) == prompts(2, 5, 100, seed=1) != prompts(2, 5, 100, seed=2)
    assert job_of(JOB.line) == JOB


def test_decoding_begins_when_every_text_has_a_token() -> None:
    answer = written(10.0, [[11.0, 12.0, 13.0], [12.5, 13.0, 14.0]], [[1, 2, 3], [4, 5, 6]])
    assert (answer.seconds, answer.decode_tokens, answer.decode_s) == (4.0, 3, 1.5)
    assert written_of(answer.line) == answer


# ---- contestants ----


class _Scripted:
    """An entrant that takes a given time for each job and keeps the order of asking."""

    def __init__(self, kind: str, seconds: list[float], asked: list[tuple[str, Job]]) -> None:
        self.kind, self._seconds, self._asked = kind, iter(seconds), asked

    def write(self, job: Job) -> Written:
        self._asked.append((self.kind, job))
        seconds = next(self._seconds)
        return Written(seconds, job.tokens - job.texts, seconds / 2, tuple((0,) * job.new_tokens for _ in job.prompts))


def _rounds(asked: list[tuple[str, Job]]) -> Rounds:
    contestants = [_Scripted("ours", [99, 1, 2, 4], asked), _Scripted("peer", [1, 2, 2, 2], asked)]
    rounds = Rounds(JOB.texts)
    rounds.run(cast(list[Entrant], contestants), JOB, 3)
    return rounds


def test_ratios_are_paired_by_round_and_the_first_round_counts_not() -> None:
    rounds = _rounds([])
    assert rounds.ratios("ours", "peer") == [2.0, 1.0, 0.5]
    assert rounds.tokens_per_s("ours") == [18.0, 9.0, 4.5]
    result = Result("engine")
    rounds.report(result, "ours")
    assert result.figures["tokens_per_s_ours_3"] == 9.0
    assert result.figures["same_texts_share_peer_3"] == 1.0


def test_contestants_write_the_same_in_an_order_that_turns() -> None:
    asked: list[tuple[str, Job]] = []
    _rounds(asked)
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    assert all(first[1] == second[1] for first, second in pairs)
    assert len({first[1].seed for first, _ in pairs}) == 4
    assert {first[0] for first, _ in pairs[1:]} == {"ours", "peer"}


def test_a_peer_that_is_not_installed_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    said = io.StringIO("some library's banner\nabsent No module named 'xllamacpp'\n")
    process = cast("Popen[str]", SimpleNamespace(stdout=said))
    assert entered("llama-server", process) is None
    assert "llama-server: not installed (No module named 'xllamacpp')" in capsys.readouterr().out


def test_a_contestant_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="hf-generate ended"):
        entered("hf-generate", cast("Popen[str]", SimpleNamespace(stdout=io.StringIO(""))))


# ---- the table ----


def test_the_line_of_passes_on_a_line_is_that_line() -> None:
    cells = [(1, 1), (4, 1), (8, 16), (32, 16)]
    line = fitted_line(cells, [5 + 0.25 * (positions * batch - 1) for positions, batch in cells])
    assert (line.fixed_ms, line.per_position_ms) == pytest.approx((5, 0.25))


def test_shares_of_an_account() -> None:
    account = Account()
    account.add(StepDone(1, (), positions=6, computed=8, pass_s=0.09, host_s=0.005), 0.1)
    assert (account.padding_share, account.host_share) == pytest.approx((0.25, 0.1))


# ---- fleets ----


def _lockstep(gap_s: float, rounds: int = 23) -> Busy:
    """Two devices that are always in one pass of 6 positions, with a gap between passes."""
    pass_s = LINE.seconds(6)
    passes = [
        PacedPass(number * (pass_s + gap_s), number * (pass_s + gap_s) + pass_s, 6, 2, 0.0) for number in range(rounds)
    ]
    arrivals = [[(entry.ended_s, 2) for entry in passes] for _ in range(2)]
    return busy(LINE, arrivals, passes)


def test_without_gaps_the_line_is_reached() -> None:
    found = _lockstep(0.0)
    assert (found.tokens_a_round, found.sessions_a_pass) == (2, 2)
    assert found.line_share == pytest.approx(1)
    assert found.lockstep_share(draft_length=2) == pytest.approx(1)


def test_gaps_between_passes_cost_their_share() -> None:
    gap_s = LINE.seconds(6)  # as long as a pass
    found = _lockstep(gap_s)
    assert found.lockstep_share(draft_length=2) == pytest.approx(0.5)
    assert found.line_share == pytest.approx(0.5, abs=0.02)  # the gap behind the last pass is not in it
    pieces = found.pieces()
    assert [round(charged_s / LINE.seconds(6)) for charged_s, _ in pieces] == [10, 10, 2]
    assert pieces[0][1] == pytest.approx(10 * (LINE.seconds(6) + gap_s))


def test_passes_with_half_the_devices_in_them_are_not_efficient() -> None:
    full, half_s = _lockstep(0.5), LINE.seconds(3)
    assert [done / taken for done, taken in full.rounds_and_busy(draft_length=2)] == pytest.approx([1, 1, 1])
    passes = tuple(PacedPass(at * half_s, (at + 1) * half_s, 3, 1, 0.0) for at in range(20))
    halves = Busy(LINE, 2, 20 * half_s, 40, 20, passes)
    expected = LINE.seconds(6) / 2 / half_s
    assert [done / taken for done, taken in halves.rounds_and_busy(draft_length=2)] == pytest.approx([expected] * 2)
    assert expected < 0.9


def test_only_what_happens_while_all_are_busy_counts() -> None:
    passes = [PacedPass(at, at + 1.0, 1, 1, 0.0) for at in (0.0, 1.0, 2.0, 3.0, 4.0)]
    found = busy(LINE, [[(1.0, 1), (2.0, 5), (5.0, 7)], [(0.5, 1), (3.0, 2), (4.0, 4)]], passes)
    assert (found.seconds, found.tokens, found.commits) == (3.0, 11, 3)
    assert [entry.began_s for entry in found.passes] == [1.0, 2.0, 3.0]


def _texts(count: int, tokens: int) -> list[KnownText]:
    chance = np.random.default_rng(2)
    whole = [tuple(map(int, chance.integers(0, 50, tokens + 2))) for _ in range(count)]
    return [KnownText(ids[:2], ids[2:]) for ids in whole]


def test_the_simulators_matches_are_the_drafters() -> None:
    (text,) = _texts(1, 60)
    drafter, whole = text.noisy(50), [*text.prompt, *text.ids]
    proposed = [drafter.propose(whole[:at], 1, lambda: False) == [whole[at]] for at in range(2, len(whole))]
    assert text.run(50).matched == tuple(proposed)
    assert 0 < sum(proposed) < len(proposed)


def test_a_lone_device_in_virtual_time_reaches_the_line() -> None:
    found = Fleet(_texts(1, 800), LINE).simulated(50)
    assert found.lockstep_share(draft_length=4) == pytest.approx(1, abs=0.02)
    assert Fleet(_texts(1, 40), LINE).plain().simulated(50).tokens_per_s == pytest.approx(1 / LINE.fixed_s)


class _Instant:
    """A runner that takes no time."""

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        return StepDone(step.number, (), positions=11, computed=16)

    def draft(self, step: DraftStep) -> Drafted:
        return Drafted(step.number, ())


def test_a_paced_step_lasts_what_the_line_says_and_is_logged() -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += max(seconds, 1e-4)

    log = io.StringIO()
    runner = PacedRunner(_Instant(), LINE, Pacer(clock=lambda: now[0], sleep=sleep), log)
    done = runner.run(Step(1, ()))
    assert done.pass_s == LINE.seconds(11)
    assert done.computed == 11
    (entry,) = [PacedPass(*json.loads(line)) for line in log.getvalue().splitlines()]
    assert entry.ended_s - entry.began_s == pytest.approx(LINE.seconds(11), abs=2e-4)
    assert (entry.positions, entry.sessions) == (11, 0)
    assert 0 <= entry.late_s < 2e-4
