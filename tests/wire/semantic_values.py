"""Values of semantic sessions, drawn: whatever fits their bounds."""

from __future__ import annotations

from hypothesis import strategies as st

from airdraft.core.types import (
    Granted,
    Hidden,
    HiddenProtocol,
    NeedHidden,
    Report,
    Semantic,
    StateKind,
    StateRows,
)

epochs = st.integers(1, 2**32 - 1)
rules = st.from_regex(r"\A[a-z][a-z0-9-]{0,31}\Z")
protocols = st.sampled_from(list(HiddenProtocol))
hashes = st.lists(st.binary(min_size=8, max_size=8), unique=True, max_size=12).map(tuple)
reasons = st.text(st.characters(categories=("L", "N", "P")), max_size=50)

semantics = st.builds(
    Semantic,
    st.floats(0, 1, exclude_min=True),
    rules,
    protocols,
    st.just(b"") | st.binary(min_size=32, max_size=32),
    st.integers(0, 1 << 16),
    st.sampled_from(list(StateKind)),
)
grants = st.builds(Granted, st.floats(0, 1), rules, protocols, reasons) | st.builds(Granted, reason=reasons)
seconds = st.floats(0, 1e6, width=32)
above_zero = st.floats(2**-20, 1e6, width=32)
reports = st.builds(
    Report,
    epochs,
    st.booleans(),
    st.booleans(),
    seconds,
    st.none() | seconds,
    st.none() | above_zero,
    st.none() | above_zero,
)
need_hidden = st.builds(NeedHidden, epochs, hashes.filter(len))


@st.composite
def rows(draw: st.DrawFn, count: int) -> bytes:
    row_bytes = draw(st.integers(5, 24))
    return draw(st.binary(min_size=count * row_bytes, max_size=count * row_bytes))


@st.composite
def hidden(draw: st.DrawFn) -> Hidden:
    names = draw(hashes)
    return Hidden(draw(epochs), names, draw(rows(len(names))))


@st.composite
def states(draw: st.DrawFn, ids: int) -> StateRows | None:
    at = sorted(draw(st.sets(st.integers(0, ids - 1)))) if ids else []
    return StateRows(tuple(at), draw(rows(len(at)))) if at else None
