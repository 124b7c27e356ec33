"""Acceptance rules: which of a pass's draft tokens become text, and what the target adds.

The rule in use is *exact*: the walk follows the target's own choice at every node, so the text is the target's at any
temperature and for any drafter (SpecExec's rule, Svirschevski et al. 2024, arXiv 2406.02532, with the shared noise of
Daliri, Musco, Suresh 2024, arXiv 2408.07978, once the sampler has noise). A semantic session asks for more: there a
drafted token that is as good may stand (``meaning_walk``, DESIGN §6). ``ACCEPTANCE_RULES`` holds the exact rule beside
the published ones that judge a chain by both models' distributions, as pure functions: all chance is an
argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from airdraft.core.acceptance_chain import Chain, Uniforms, draw, residual
from airdraft.core.types import Origin, StopReason

ROOT = -1


@dataclass(frozen=True, slots=True)
class Ending:
    """When a text is over."""

    stop_ids: frozenset[int]
    final_length: int  # prompt length plus max tokens

    def reached(self, length: int, last: int | None) -> StopReason | None:
        """Say whether a text of ``length`` whose last generated token is ``last`` (None: none yet) has ended."""
        if last is not None and last in self.stop_ids:
            return StopReason.STOP_TOKEN
        return StopReason.MAX_TOKENS if length >= self.final_length else None


@dataclass(frozen=True, slots=True)
class Walk:
    """What one pass commits."""

    ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    path: tuple[int, ...]  # indices of the accepted nodes, in order
    stop: StopReason | None


def exact_walk(
    tokens: Sequence[int],
    children: Mapping[int, Sequence[int]],
    choices: Mapping[int, int],
    length: int,
    ending: Ending,
) -> Walk:
    """Follow the target's choices from the committed end through a tree of draft nodes.

    tokens    token of each node
    children  node index (``ROOT`` for the committed end) to the indices of its children
    choices   node index (``ROOT`` for the committed end) to the target's choice after it
    length    the committed length

    The walk ends with the first token that no child holds (*recovered* where there were children, *bonus* after a leaf,
    *run-ahead* where nothing was drafted) or with the first that ends the text; what was accepted after an ending is
    not committed (DESIGN §4, rule 8).
    """
    return meaning_walk(tokens, children, choices, length, ending, lambda node: False)


def meaning_walk(
    tokens: Sequence[int],
    children: Mapping[int, Sequence[int]],
    choices: Mapping[int, int],
    length: int,
    ending: Ending,
    harmless: Callable[[int], bool],
) -> Walk:
    """Follow the target's choices as ``exact_walk`` does, and where no child is one, the first *harmless* child.

    ``harmless`` is asked of a node only where none of its siblings is the target's choice, in their order. A child that
    it lets stand is *accepted by meaning*, and the walk goes on below it: later rows were computed with it in context
    (WISV, arXiv 2604.17701).
    """
    ids: list[int] = []
    origins: list[Origin] = []
    path: list[int] = []
    node = ROOT
    while True:
        token, origin = choices[node], Origin.ACCEPTED
        offered = children.get(node, ())
        child = next((index for index in offered if tokens[index] == token), None)
        if child is None and (child := next(filter(harmless, offered), None)) is not None:
            token, origin = tokens[child], Origin.MEANING
        if child is not None:
            path.append(child)
        elif offered:
            origin = Origin.RECOVERED
        else:
            origin = Origin.BONUS if path else Origin.RUN_AHEAD
        ids.append(token)
        origins.append(origin)
        stop = ending.reached(length + len(ids), token)
        if child is None or stop is not None:
            return Walk(tuple(ids), tuple(origins), tuple(path), stop)
        node = child


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule makes of a chain: the accepted draft tokens and the one that the target adds."""

    ids: tuple[int, ...]
    origins: tuple[Origin, ...]

    @classmethod
    def of(cls, tokens: Sequence[int], accepted: int, added: int) -> Verdict:
        """Return the verdict that keeps the first ``accepted`` of the draft ``tokens`` and adds ``added``."""
        last = Origin.RECOVERED if accepted < len(tokens) else Origin.BONUS if tokens else Origin.RUN_AHEAD
        return cls((*tokens[:accepted], added), (Origin.ACCEPTED,) * accepted + (last,))

    @property
    def accepted(self) -> int:
        """How many draft tokens were accepted; the ids are one more."""
        return len(self.ids) - 1

    def walk(self, length: int, ending: Ending) -> Walk:
        """Return what is committed after ``length`` tokens: all of it, or up to the first token that ends the text."""
        stop = None
        count = 0
        while stop is None and count < len(self.ids):
            count += 1
            stop = ending.reached(length + count, self.ids[count - 1])
        path = tuple(range(min(count, self.accepted)))
        return Walk(self.ids[:count], self.origins[:count], path, stop)


def exact(chain: Chain, uniforms: Uniforms) -> Verdict:
    """Accept what the target draws itself: ``exact_walk`` along a chain, with choices by inverse CDF.

    Lossless for any draft whatever; accepts a token with probability p(x). In use the choices are the sampler's, whose
    noise the drafter shares, which accepts far more often.

    Source: Svirschevski et al. 2024, arXiv 2406.02532; with shared noise Daliri, Musco, Suresh 2024, arXiv 2408.07978.
    """
    count = len(chain.tokens)
    choices = [p.draw(u) for p, u in zip(chain.target, uniforms.draw, strict=True)]
    children = {node: (node + 1,) for node in range(ROOT, count - 1)}
    endless = Ending(frozenset(), count + 2)
    walk = exact_walk(chain.tokens, children, dict(enumerate(choices, ROOT)), 0, endless)
    return Verdict(walk.ids, walk.origins)


def rejection(chain: Chain, uniforms: Uniforms) -> Verdict:
    """Accept x with probability min(1, p(x)/q(x)), at the first rejection draw from max(p - q, 0), normalised.

    Lossless where each token was sampled from its q; accepts a position with probability 1 - TV(p, q).

    Source: Leviathan, Kalman, Matias 2023, arXiv 2211.17192, algorithm 1; Chen et al. 2023, arXiv 2302.01318.
    """
    return _by_ratio(chain, uniforms, 1.0)


def lenient(chain: Chain, uniforms: Uniforms, *, lenience: float = 0.5) -> Verdict:
    """Be ``rejection`` with q multiplied by ``lenience`` in (0, 1] before it is compared with p; 1 is ``rejection``.

    Not lossless: no token comes with more than p(x) / lenience, but some with less than p(x). The paper changes the
    comparison alone, so what is drawn after a rejection stays max(p - q, 0).

    Source: Leviathan, Kalman, Matias 2023, arXiv 2211.17192, appendix A.5.
    """
    if not 0 < lenience <= 1:
        raise ValueError(f"lenience must be above 0 and at most 1, not {lenience}")
    return _by_ratio(chain, uniforms, lenience)


def block(chain: Chain, uniforms: Uniforms) -> Verdict:
    """Judge the draft as a whole: the longest block whose own test passes, though a shorter one's failed.

    Lossless where each token was sampled from its q; no lossless rule on a single draft accepts more on average.
    With w_0 = 1 and w_i = min(1, w_{i-1} p(x_i)/q(x_i)), block i passes with probability h_i = s_i / (s_i + 1 - w_i),
    s_i = sum of max(w_i p - q, 0) at its next position, and the whole draft with w_n; after tau tokens the target adds
    from max(w_tau p - q, 0), normalised.

    Source: Sun et al. 2024, arXiv 2403.10444, algorithm 2.
    """
    tau, weight, weight_tau = 0, 1.0, 1.0
    count = len(chain.tokens)
    for done, (token, q, u) in enumerate(zip(chain.tokens, chain.draft, uniforms.accept, strict=True), 1):
        weight = min(1.0, weight * chain.target[done - 1].probability(token) / q.probability(token))
        passes = weight
        if done < count:
            left = float(residual(chain.target[done], chain.draft[done], weight).sum())
            passes = left / (left + (1.0 - weight)) if left > 0 else 0.0
        if u < passes:  # no break: a later block may pass
            tau, weight_tau = done, weight
    return _added(chain, uniforms, tau, weight_tau)


def typical(chain: Chain, uniforms: Uniforms, *, epsilon: float = 0.09, delta: float = 0.3) -> Verdict:
    """Accept x while p(x) > min(epsilon, delta exp(-entropy of p)); then draw from p.

    Not lossless, needs no q and no chance to accept. At a threshold of 1 or more it accepts nothing, and is the target
    by itself; at 0 it accepts whatever the target can say.

    Source: Medusa, Cai et al. 2024, arXiv 2401.10774, section 3.3.2 (typical acceptance), with its code's settings.
    """
    if not (epsilon >= 0 and delta >= 0):
        raise ValueError(f"epsilon and delta must be 0 or more, not {epsilon} and {delta}")
    accepted = 0
    for token, p in zip(chain.tokens, chain.target, strict=False):
        if p.probability(token) <= min(epsilon, delta * math.exp(-p.entropy())):
            break
        accepted += 1
    return Verdict.of(chain.tokens, accepted, chain.target[accepted].draw(_draw_of(chain, uniforms, accepted)))


def _by_ratio(chain: Chain, uniforms: Uniforms, lenience: float) -> Verdict:
    accepted = 0
    for token, p, q, u in zip(chain.tokens, chain.target[:-1], chain.draft, uniforms.accept, strict=True):
        if u * lenience * q.probability(token) >= p.probability(token):
            break
        accepted += 1
    return _added(chain, uniforms, accepted)


def _added(chain: Chain, uniforms: Uniforms, accepted: int, scale: float = 1.0) -> Verdict:
    p = chain.target[accepted]
    weights = p.probabilities
    if accepted < len(chain.tokens):
        left = residual(p, chain.draft[accepted], scale)
        weights = left if left.any() else weights  # nothing left: p is q but for rounding, and so is what is drawn
    return Verdict.of(chain.tokens, accepted, draw(p.ids, weights, _draw_of(chain, uniforms, accepted)))


def _draw_of(chain: Chain, uniforms: Uniforms, accepted: int) -> float:
    if uniforms.draw.size != len(chain.target):
        raise ValueError(f"{len(chain.target)} target rows need as many uniforms, not {uniforms.draw.size}")
    return float(uniforms.draw[accepted])


class Judge(Protocol):
    """A rule as the table holds it: a pure function of a chain and of chance."""

    def __call__(self, chain: Chain, uniforms: Uniforms) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class AcceptanceRule:
    """An entry of the table.

    lossless  the text is the target's: with ``exact`` for any draft, else for one that was sampled from its q
    needs_q   a chain without the drafter's distributions is refused with ValueError
    """

    judge: Judge
    lossless: bool
    needs_q: bool


ACCEPTANCE_RULES: dict[str, AcceptanceRule] = {
    "exact": AcceptanceRule(exact, lossless=True, needs_q=False),
    "rejection": AcceptanceRule(rejection, lossless=True, needs_q=True),
    "block": AcceptanceRule(block, lossless=True, needs_q=True),
    "typical": AcceptanceRule(typical, lossless=False, needs_q=False),
    "lenient": AcceptanceRule(lenient, lossless=False, needs_q=True),
}
"""The rules by name. ``exact`` is the one in use; what the others are for is in docs/adr/0007."""
