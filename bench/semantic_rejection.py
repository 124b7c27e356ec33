"""Rejection sampling beside the others: at temperature 1, off the session's rules, on few problems.

At temperature 0 rejection sampling is greedy speculative decoding. At temperature 1 the device must send q, the
distribution of every drafted token, and what comes out is a sample of the target, whose accuracy is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance import ACCEPTANCE_RULES
from airdraft.core.acceptance_chain import Chain, Distribution, SparseQ, Uniforms, quantise
from airdraft.core.types import Draft
from airdraft.wire.convert import device_frame_to_proto
from bench.radio_text import MAX_TOKENS
from bench.semantic_cells import pair_of, problems
from bench.semantic_pair import ROOM
from edge_node.engine.loading import load_target
from edge_node.labels.writer import Line, Reading, Writer
from models.wordproblems import check_answer

PLACES = 64


@dataclass(slots=True)
class Sampled:
    """What texts came to by one rule."""

    texts: int = 0
    right: int = 0
    rounds: int = 0
    tokens: int = 0
    drafted: int = 0
    bytes_up: int = 0


@dataclass(slots=True, eq=False)
class _Text:
    path: list[int]
    prompt: int
    answer: int
    lines: tuple[Line, Line]  # of target and drafter
    chance: np.random.Generator
    drafted: list[int]
    q: list[SparseQ]


def sampled(drafter: str, first: int, count: int, length: int, rule: str = "rejection") -> Sampled:
    """Write problems at temperature 1 by a published rule; drafts are sampled from q as it goes up."""
    loaded, found = pair_of(drafter), Sampled()
    target = Writer(load_target("demo", device="cpu", max_context=ROOM), PLACES, ROOM)
    small = Writer(loaded.small, PLACES, ROOM)
    stops = frozenset(loaded.stop_ids)
    for begin in range(first, first + count, PLACES):
        texts = [
            _Text(
                list(problem.prompt),
                len(problem.prompt),
                problem.answer,
                (target.new(), small.new()),
                np.random.default_rng([1, problem.number]),
                [],
                [],
            )
            for problem in problems(loaded, begin, min(PLACES, first + count - begin))
        ]
        going = texts
        while going:
            _draft(small, going, length, stops)
            _judge(target, going, rule, found)
            going = [
                it for it in going if not stops & set(it.path[it.prompt :]) and len(it.path) < it.prompt + MAX_TOKENS
            ]
        for text in texts:
            found.texts += 1
            found.right += check_answer(loaded.tokenizer.decode(text.path[text.prompt :])) == text.answer
            target.free([text.lines[0]])
            small.free([text.lines[1]])
    return found


def _draft(small: Writer, texts: Sequence[_Text], length: int, stops: frozenset[int]) -> None:
    for text in texts:
        text.drafted, text.q = [], []
    for _ in range(length):
        open_ones = [
            it
            for it in texts
            if not (it.drafted and it.drafted[-1] in stops) and len(it.path) + len(it.drafted) < small.room - 1
        ]
        if not open_ones:
            return
        wanted = [[*it.path, *it.drafted] for it in open_ones]
        rows = small.read([Reading(it.lines[1], ids, len(ids) - 1) for it, ids in zip(open_ones, wanted, strict=True)])
        for text, row in zip(open_ones, rows, strict=True):
            chances = row.logits[-1].double().softmax(-1).numpy()
            text.q.append(quantise(np.arange(len(chances)), chances))
            text.drafted.append(text.q[-1].sample(float(text.chance.random())))


def _judge(target: Writer, texts: Sequence[_Text], rule: str, found: Sampled) -> None:
    wanted = [[*it.path, *it.drafted] for it in texts]
    rows = target.read([Reading(it.lines[0], ids, len(it.path) - 1) for it, ids in zip(texts, wanted, strict=True)])
    judge = ACCEPTANCE_RULES[rule].judge
    for text, row in zip(texts, rows, strict=True):
        chances: NDArray[np.float64] = row.logits.double().softmax(-1).numpy()
        count, length = len(text.drafted), len(text.path)
        chain = Chain(
            tuple(text.drafted), tuple(map(Distribution.dense, chances)), tuple(q.distribution() for q in text.q)
        )
        verdict = judge(chain, Uniforms(text.chance.random(count), text.chance.random(count + 1)))
        frame = Draft(1, 1, length, length, bytes(8), tuple(text.drafted), q=tuple(text.q))
        found.rounds += 1
        found.tokens += len(verdict.ids)
        found.drafted += count
        found.bytes_up += device_frame_to_proto(frame).ByteSize()
        text.path += verdict.ids
