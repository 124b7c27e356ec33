"""The search for labels: which of the drafter's tokens change the target's answer, by trying them.

At each place where the drafter, shown the text so far, would have written another token, that token is put in and the
target finishes. If the answer is as good, the swap is harmless and the search goes on with the new text. After
AutoJudge (arXiv 2504.20039), with two changes: several endings are written, the first greedy and the others sampled,
so that a label is a share and not a coin's side; and the search runs over many problems side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from airdraft.core.types import Sampling
from edge_node.engine.evidence import evidence_scalars, target_features
from edge_node.engine.target import Target
from edge_node.labels.checks import SCORE_MARGIN, check_named
from edge_node.labels.problems import Problem
from edge_node.labels.writer import Ending, Line, Reading, Rows, Writer


@dataclass(frozen=True, slots=True)
class Settings:
    """How labels are searched."""

    rollouts: int = 1  # endings a swap: the first greedy, the others sampled
    temperature: float = 0.5  # of the others
    check: str = "number"  # where the problem names none
    max_tokens: int = 128  # of an answer
    seed: int = 0


class Label(NamedTuple):
    """One swap and what came of it."""

    problem: int  # number in the prompt file
    position: int  # of the token in the text, prompt included
    drafted: int
    choice: int  # the target's, in its place
    harm: float  # share of the endings whose answer is not as good
    greedy_harm: bool  # of the greedy one
    features: NDArray[np.float16]  # [3 d + 6] of ``target_features``
    state: NDArray[np.float16]  # [d_D] the drafter's last hidden state, of which it wrote the drafted token


class Pair:
    """A target and a drafter with places for a batch of problems."""

    def __init__(self, target: Target, drafter: Target, batch: int, rollouts: int, room: int) -> None:
        """Make places for ``batch`` problems with so many endings each, of ``room`` tokens."""
        self.places = batch
        self.target = Writer(target, batch * (1 + rollouts), room)
        self.drafter = Writer(drafter, batch, room)
        self.tokenizer = Tokenizer.from_str(target.tokenizer_json)
        self.control = control_ids(target)

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's ids."""
        ids: list[int] = self.tokenizer.encode(prompt).ids
        return ids

    def answer(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's ids, control tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def control_ids(target: Target) -> frozenset[int]:
    """Return the ids that are never swapped: those that end a text, and the tokenizer's special ones."""
    added = Tokenizer.from_str(target.tokenizer_json).get_added_tokens_decoder()
    return frozenset(target.stop_ids) | {token for token, facts in added.items() if facts.special}


@dataclass(slots=True)
class _Search:
    """One problem at work."""

    number: int
    problem: Problem
    prompt: int  # its length
    line: Line  # of the target, holds the text
    draft_line: Line
    text: list[int]
    reference: str  # the target's own answer
    drafts: list[int] = field(default_factory=list)  # the drafter's choice at each position of the answer
    states: list[NDArray[np.float16]] = field(default_factory=list)  # [d_D] of which it wrote each
    at: int = 0  # next position to look at

    def mismatch(self, control: frozenset[int]) -> int | None:
        """Return the next position where the drafter would have written another token that may be swapped."""
        for position in range(self.at, len(self.text)):
            drafted, own = self.drafts[position - self.prompt], self.text[position]
            if drafted != own and drafted not in control and own not in control:
                return position
        return None


def search(pair: Pair, problems: Sequence[tuple[int, Problem]], settings: Settings) -> list[Label]:
    """Return the labels of numbered problems, side by side; at most as many as the pair has places for."""
    searches = _begun(pair, problems, settings)
    labels: list[Label] = []
    try:
        going = searches
        while True:
            found = [(one, at) for one in going if (at := one.mismatch(pair.control)) is not None]
            if not found:
                return labels
            labels += _tried(pair, found, settings)
            going = [one for one, _ in found]
    finally:
        pair.target.free([one.line for one in searches])
        pair.drafter.free([one.draft_line for one in searches])


def _begun(pair: Pair, problems: Sequence[tuple[int, Problem]], settings: Settings) -> list[_Search]:
    """Write the target's own answers and read them with the drafter."""
    prompts = [pair.encode(problem.prompt) for _, problem in problems]
    fitting = [at for at, prompt in enumerate(prompts) if 0 < len(prompt) < pair.target.room]
    lines = [pair.target.new() for _ in fitting]
    most = [min(len(prompts[at]) + settings.max_tokens, pair.target.room) for at in fitting]
    texts = pair.target.finish([Ending(line, prompts[at]) for line, at in zip(lines, fitting, strict=True)], most)
    searches = []
    for at, line, text in zip(fitting, lines, texts, strict=True):
        number, problem = problems[at]
        prompt = len(prompts[at])
        one = _Search(number, problem, prompt, line, pair.drafter.new(), text, pair.answer(text[prompt:]), at=prompt)
        searches.append(one)
    _draft(pair, searches)
    return searches


def _draft(pair: Pair, searches: Sequence[_Search]) -> None:
    """Read the texts with the drafter: what it would have written at each position from ``at`` on."""
    wanted = [one for one in searches if one.at < len(one.text)]
    if not wanted:
        return
    rows = pair.drafter.read([Reading(one.draft_line, one.text[:-1], one.at - 1) for one in wanted])
    for one, row in zip(wanted, rows, strict=True):
        del one.drafts[one.at - one.prompt :], one.states[one.at - one.prompt :]
        one.drafts += row.logits.argmax(-1).tolist()
        one.states += list(row.hidden.cpu().numpy().astype(np.float16))


def _tried(pair: Pair, found: Sequence[tuple[_Search, int]], settings: Settings) -> list[Label]:
    """Put the drafter's token in, finish, compare; adopt what is harmless."""
    swapped = [[*one.text[:at], one.drafts[at - one.prompt]] for one, at in found]
    trials = [pair.target.new(one.line, at) for one, at in found]
    rows = pair.target.read([Reading(line, ids, len(ids) - 2) for line, ids in zip(trials, swapped, strict=True)])
    features = features_of(pair.target, rows, [ids[-1] for ids in swapped], [one.text[at] for one, at in found])
    harms = _harms(pair, found, swapped, trials, settings)
    labels = []
    for (one, at), ids, trial, harm, own in zip(found, swapped, trials, harms, features, strict=True):
        state = one.states[at - one.prompt]
        labels.append(Label(one.number, at, ids[-1], one.text[at], harm.share, harm.greedy, own, state))
        one.at = at + 1
        spare = trial
        if not harm.greedy:
            one.text, one.line, spare = harm.text, trial, one.line
        pair.target.free([spare])
    _draft(pair, [one for (one, _), harm in zip(found, harms, strict=True) if not harm.greedy])
    return labels


class _Harm(NamedTuple):
    share: float
    greedy: bool
    text: list[int]  # the greedy ending's


def _harms(
    pair: Pair, found: Sequence[tuple[_Search, int]], swapped: Sequence[list[int]], trials: Sequence[Line],
    settings: Settings,
) -> list[_Harm]:  # fmt: skip
    endings: list[Ending] = []
    most: list[int] = []
    spare: list[Line] = []
    checks = [check_named(one.problem, settings.check) for one, _ in found]
    for (one, at), ids, trial, check in zip(found, swapped, trials, checks, strict=True):
        sampled = settings.rollouts - 1 if check.same is not None else 0
        spare += (lines := [pair.target.new(trial, len(ids)) for _ in range(sampled)])
        chosen = [
            Sampling(settings.temperature, _seed(settings.seed, one.number, at, rollout)) for rollout in range(sampled)
        ]
        endings += [Ending(trial, ids)]
        endings += [Ending(line, ids, sampling) for line, sampling in zip(lines, chosen, strict=True)]
        most += [min(one.prompt + settings.max_tokens, pair.target.room)] * (1 + sampled)
    texts = iter(pair.target.finish(endings, most))
    pair.target.free(spare)
    harms = []
    for (one, at), check in zip(found, checks, strict=True):
        if check.same is None:
            text = next(texts)
            harmful = _liked_less(pair, one, at)
            harms.append(_Harm(float(harmful), harmful, text))
            continue
        written = [next(texts) for _ in range(settings.rollouts)]
        differ = [
            text != one.text and not check.same(one.problem, one.reference, pair.answer(text[one.prompt :]))
            for text in written
        ]
        harms.append(_Harm(sum(differ) / len(differ), differ[0], written[0]))
    return harms


def _liked_less(pair: Pair, one: _Search, at: int) -> bool:
    """Say whether the target likes the text's ending less after the drafter's token than after its own."""
    ending = one.text[at + 1 :]
    if not ending:
        return False
    line = pair.target.new(one.line, at)
    scores = []
    for token in (one.text[at], one.drafts[at - one.prompt]):
        (rows,) = pair.target.read([Reading(line, [*one.text[:at], token, *ending[:-1]], at)])
        log_p = rows.logits.log_softmax(-1)
        scores.append(float(log_p.gather(1, torch.tensor(ending, device=log_p.device)[:, None]).mean()))
    pair.target.free([line])
    return scores[1] < scores[0] - SCORE_MARGIN


def features_of(
    writer: Writer, rows: Sequence[Rows], drafted: Sequence[int], choice: Sequence[int]
) -> NDArray[np.float16]:
    """Return the features [n, 3 d + 6] of n drafted tokens, each with the two rows after its parent and after it."""
    with torch.inference_mode():
        before, after = (torch.stack([row.logits[at] for row in rows]) for at in (-2, -1))
        hidden = torch.stack([row.hidden[-1] for row in rows])
        ids, choices = (torch.tensor(list(tokens), device=hidden.device) for tokens in (drafted, choice))
        made = target_features(hidden, ids, choices, evidence_scalars(before, after, ids, choices), writer.embed)
    return made.cpu().numpy().astype(np.float16)


def _seed(seed: int, problem: int, position: int, rollout: int) -> int:
    """Return a seed of its own for each ending."""
    return int(np.random.SeedSequence([seed, problem, position, rollout]).generate_state(1, np.uint64)[0])
