"""What audits make of a head that is too lax for its drafter: how soon the cap is met again (DESIGN §6).

A head for the 75 % pair is made overconfident, its table with it, and judges a drafter of another style. Every swap is
audited as an edge audits: both wordings are finished away from the session, and their answers compared. The text that
the swap stands in is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from airdraft.core.meaning import AuditTest, HeadTail
from bench.semantic_cells import pair_of, problems
from bench.semantic_contestants import Setting
from bench.semantic_labels import ROOM
from bench.semantic_pair import Pair
from bench.semantic_rounds import Fleet, Problem, Written
from edge_node.engine.loading import load_target
from edge_node.labels.writer import Ending, Writer
from models.wordproblems import check_answer

STYLE = "drafter-60"
HEADS = "drafter"
"""Who drafts, and whose heads judge."""

OVERCONFIDENCE = 100.0
"""By how much the risks that the head tells are less than those it was calibrated to."""

STRETCH = 16
"""Problems written between two looks at the audits' outcome."""

PLACES = 96


@dataclass(slots=True)
class Shift:
    """One course of a shift of style."""

    strictness: list[float] = field(default_factory=list)  # after each audit
    harmful: list[bool] = field(default_factory=list)  # each audit's finding
    before: list[tuple[bool, bool]] = field(default_factory=list)  # right: exact, and with the lax head
    after: list[tuple[bool, bool]] = field(default_factory=list)  # right: exact, and once the audits were heard


def shifted(first: int, count: int, audits: int) -> Shift:
    """Let a lax head judge until so many swaps are audited; write ``count`` problems without audits, and after them."""
    pair = pair_of(STYLE, heads=HEADS)
    lax = overconfident(pair.heads["target-only"].tail)
    exact, judged = Setting("exact", 16), Setting("target_only", 16)
    test, shift = AuditTest(), Shift()
    auditor = Auditor(pair)
    at = first
    while test.audits < audits:
        fleet = Fleet(pair, keeps_swaps=True, tail=lax, strictness=lambda: test.strictness)
        asked = problems(pair, at, STRETCH)
        at += STRETCH
        for text in sorted(fleet.write(asked, [judged]), key=lambda text: text.problem):
            prompt = asked[text.problem - asked[0].number]
            for harmful, risk in auditor.audited(prompt, text, stood_only=test.strictness > 0):
                if test.audits < audits:
                    shift.strictness.append(test.audited(risk, harmful=harmful))
                    shift.harmful.append(harmful)
    frozen = test.strictness
    for strictness, found in ((lambda: 1.0, shift.before), (lambda: frozen, shift.after)):
        found += _right(pair, lax, strictness, at, count, (exact, judged))
        at += count
    return shift


def overconfident(tail: HeadTail) -> HeadTail:
    """Return a head that tells a fraction of the risk, with the table that belongs to the one it was."""
    return replace(tail, calibration_y=tail.calibration_y / OVERCONFIDENCE)


def _right(
    pair: Pair, tail: HeadTail, strictness: Callable[[], float], first: int, count: int, settings: Sequence[Setting]
) -> list[tuple[bool, bool]]:
    texts = Fleet(pair, tail=tail, strictness=strictness).write(problems(pair, first, count), settings)
    right = {(text.problem, text.setting): text.right for text in texts}
    numbers = sorted({text.problem for text in texts})
    return [(right[number, settings[0]], right[number, settings[1]]) for number in numbers]


class Auditor:
    """Finishes both wordings of swaps, many at a time."""

    def __init__(self, pair: Pair) -> None:
        """Take places of its own: audits write nothing into sessions."""
        self._pair = pair
        self._writer = Writer(load_target("demo", device="cpu", max_context=ROOM), PLACES, ROOM)

    def audited(self, problem: Problem, text: Written, *, stood_only: bool = True) -> list[tuple[bool, float]]:
        """Return of each swap of a text whether the drafted wording leads to another answer, and the risk claimed.

        Without ``stood_only`` those count too that only strictness forbade, as an edge has it where nothing stands.
        """
        whole = (*problem.prompt, *text.ids)
        endings = []
        swaps = [swap for swap in text.swaps if swap.stood or not stood_only]
        for swap in swaps:
            before = whole[: swap.position]
            endings += [
                Ending(self._writer.new(), (*before, swap.drafted)),
                Ending(self._writer.new(), (*before, swap.chosen)),
            ]
        written = self._writer.finish(endings, [ROOM] * len(endings))
        self._writer.free([ending.line for ending in endings])
        answers = [check_answer(self._pair.tokenizer.decode(ids[len(problem.prompt) :])) for ids in written]
        found = []
        for at, swap in enumerate(swaps):
            drafted, chosen = answers[2 * at : 2 * at + 2]
            found.append((drafted != chosen or drafted is None, swap.risk))
        return found
