"""Journals to test with: one head, random steps, and what an open journal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from airdraft.core.types import Identity, Sampling, StopReason
from device_client.journal import Head, Journal, JournalError

HEAD = Head(
    session_id=bytes(range(16)),
    identity=Identity(b"\x11" * 32, b"\x22" * 32),
    sampling=Sampling(temperature=0.7, seed=2**64 - 1, top_p=0.1 + 0.2),
    stop_ids=(2, 7),
    max_tokens=64,
    prompt=(5, 0, 2**32 - 1),
    edges=("edge-a:50051", "[::1]:50052"),
    draft_model="ngram",
    draft_revision=None,
    draft_length=4,
    model_name="demo-target",
)
PROMPT = len(HEAD.prompt)

State = tuple[int, tuple[int, ...], bytes, StopReason | None]
Step = tuple[Any, ...]  # ("epoch", rise) or ("commit", ids, receipt, stop)


IDS = st.integers(0, 2**32 - 1)
EPOCHS = st.tuples(st.just("epoch"), st.integers(1, 1 << 20))
RECEIPTS = st.binary(max_size=24)
COMMITS = st.tuples(st.just("commit"), st.lists(IDS, min_size=1, max_size=4), RECEIPTS, st.none())
STOPS = st.tuples(st.just("commit"), st.lists(IDS, max_size=2), RECEIPTS, st.sampled_from(StopReason))
STEPS: st.SearchStrategy[list[Step]] = st.tuples(
    st.lists(EPOCHS | COMMITS, max_size=8), st.lists(STOPS, max_size=1)
).map(lambda parts: [*parts[0], *parts[1]])


def state(journal: Journal) -> State:
    return journal.epoch, tuple(journal.ids), journal.receipt, journal.stop


def opened(path: Path) -> State:
    with Journal.open(path) as journal:
        return state(journal)


def refusal(act: Callable[[], object]) -> str:
    """Return the error's text, which is one line."""
    with pytest.raises(JournalError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    return text


def take(journal: Journal, step: Step) -> None:
    if step[0] == "epoch":
        journal.attaching(journal.epoch + step[1])
    else:
        journal.committed(PROMPT + len(journal.ids), *step[1:])


def opened_copy(journal: Journal) -> State:
    copy = journal.path.with_name("copy")
    copy.write_bytes(journal.path.read_bytes())
    return opened(copy)


def begun(path: Path) -> Journal:
    """Make a journal with one epoch and one commit."""
    journal = Journal.create(path, HEAD)
    journal.attaching(1)
    journal.committed(PROMPT, (10, 11), b"word", None)
    return journal


def write(path: Path, steps: list[Step], reopen: bool = False) -> tuple[list[int], list[State]]:
    """Write a journal; return, after the head and after each step, how long the file was and what it said."""
    journal = Journal.create(path, HEAD)
    sizes, states = [path.stat().st_size], [state(journal)]
    for step in steps:
        if reopen:
            journal.close()
            journal = Journal.open(path)
        take(journal, step)
        sizes.append(path.stat().st_size)
        states.append(state(journal))
    journal.close()
    return sizes, states
