"""The lines of a journal: exact when our own, checked when anybody's. Forged lines here pass their checksum."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.meaning import RULES
from airdraft.core.types import HiddenProtocol, Identity, Sampling, Semantic, StateKind
from device_client.journal import Head, Journal, JournalError
from tests.device_client.journals import HEAD, IDS, PROMPT, begun, opened_copy, refusal, state

TEXTS = st.text(st.characters(categories=("L", "N", "P")), max_size=12)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(1e-9, 1e9),
    seed=st.integers(0, 2**64 - 1),
    top_k=st.integers(0, 2**32 - 1),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1e-3, 1e3),
    presence_penalty=st.floats(-100, 100) | st.integers(-100, 100),
    frequency_penalty=st.floats(-100, 100),
)
DIGESTS = st.binary(min_size=32, max_size=32)
HEADS = st.builds(
    Head,
    session_id=st.binary(min_size=16, max_size=16),
    identity=st.builds(Identity, DIGESTS, DIGESTS, TEXTS),
    sampling=SAMPLINGS,
    stop_ids=st.lists(IDS, max_size=3).map(tuple),
    max_tokens=st.integers(0, 2**32 - 1),
    prompt=st.lists(IDS, max_size=5).map(tuple),
    edges=st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
    draft_model=TEXTS,
    draft_revision=st.none() | TEXTS,
    draft_length=st.integers(0, 512),
    model_name=TEXTS,
    semantic=st.none()
    | st.builds(
        Semantic,
        st.floats(0, 1, exclude_min=True),
        st.sampled_from(list(RULES)),
        st.sampled_from(list(HiddenProtocol)),
        state_kind=st.sampled_from(list(StateKind)),
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with begun(tmp_path / "j") as made:
        yield made


def line(record: object) -> bytes:
    """Return a line as a hand that knows the format would forge it."""
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    return b"%08x %s\n" % (crc32(body), body)


def fields(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text[9:])
    return found


# ---- our own ----


@given(HEADS)
@settings(max_examples=50)
def test_a_head_reads_as_it_was_written(head: Head) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        Journal.create(path, head).close()
        with Journal.open(path) as journal:
            assert journal.head == head
            assert math.copysign(1, journal.head.sampling.top_p) == math.copysign(1, head.sampling.top_p)
            assert state(journal) == (0, (), b"", None)


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": Sampling(temperature=math.nan)},
        {"sampling": Sampling(temperature=-1)},
        {"model_name": "two\nlines"},
        {"session_id": b"short"},
        {"edges": ()},
        {"prompt": (2**32,)},
    ],
)
def test_a_head_that_could_not_be_read_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    assert "cannot create" in refusal(lambda: Journal.create(tmp_path / "j", replace(HEAD, **change)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("token", [-1, 2**32, True, 1.0])
def test_an_id_that_could_not_be_read_is_not_written(journal: Journal, token: Any) -> None:
    with pytest.raises(ValueError, match="ids must be an integer"):
        journal.committed(PROMPT + 2, (token,), b"", None)
    assert opened_copy(journal)[1] == (10, 11)


# ---- anybody's ----


@pytest.mark.parametrize("content", [b"", b"\n", b"a novel\n" * 9, b"\0" * 9000, bytes(range(256)) * 9, b"0 {}\n"])
def test_another_file_is_no_journal_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    assert refusal(lambda: Journal.open(path)).startswith(f"{path} is not a journal")
    assert path.read_bytes() == content


def test_what_is_no_file_is_no_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a journal" in refusal(lambda: Journal.open(tmp_path / "pipe"))
    assert "is not a journal" in refusal(lambda: Journal.open(Path("/dev/zero")))
    assert "cannot open" in refusal(lambda: Journal.open(tmp_path))
    assert "cannot open" in refusal(lambda: Journal.open(tmp_path / "none"))


WISH = {"max_loss": 0.01, "rule": "head", "protocol": "target_only", "state_kind": "int8"}


def forged_head(journal: Journal, **changes: object) -> bytes:
    return line(fields(journal.path.read_bytes().splitlines()[0]) | changes)


@pytest.mark.parametrize("semantic", [None, Semantic(0.01), Semantic(0.5, "kl-judge", HiddenProtocol.MARGIN_FIRST)])
def test_what_was_asked_for_is_kept(tmp_path: Path, semantic: Semantic | None) -> None:
    head = replace(HEAD, semantic=semantic)
    with Journal.create(tmp_path / "j", head):
        pass
    first = fields((tmp_path / "j").read_bytes().splitlines()[0])
    assert first["airdraft_journal"] == (1 if semantic is None else 2)  # an older one reads what it can
    assert ("semantic" in first) == (semantic is not None)
    with Journal.open(tmp_path / "j") as kept:
        assert kept.head == head


@pytest.mark.parametrize("version", [3, 2**32 - 1])
def test_a_newer_format_asks_for_an_update(journal: Journal, version: int) -> None:
    path = journal.path.with_name("newer")
    path.write_bytes(line({"airdraft_journal": version, "what": "we cannot know"}))
    assert f"was written by a newer airdraft: it is format {version}" in refusal(lambda: Journal.open(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"airdraft_journal": 0},
        {"airdraft_journal": "1"},
        {"airdraft_journal": None},
        {"session_id": "00" * 15},
        {"session_id": "zz" * 16},
        {"session_id": 7},
        {"model_digest": "00" * 31},
        {"tokenizer_digest": ""},
        {"sampler_version": None},
        {"sampling": []},
        {"sampling": {"temperature": -1}},
        {"sampling": {"temperature": math.nan}},
        {"sampling": {"temperature": math.inf}},
        {"sampling": {"temperature": 10**400}},
        {"sampling": {"temperature": True}},
        {"sampling": {"seed": 2**64}},
        {"sampling": {"seed": 1.0}},
        {"sampling": {"heat": 1.0}},
        {"stop_ids": [-1]},
        {"stop_ids": 2},
        {"max_tokens": 2**32},
        {"max_tokens": 1.5},
        {"prompt": [1, "2"]},
        {"prompt": {"1": 2}},
        {"edges": []},
        {"edges": "edge:1"},
        {"edges": ["edge\u001b[2J:1"]},
        {"model_name": "\ud800"},
        {"draft_revision": 1},
        {"more": 1},
        {"semantic": None},
        {"airdraft_journal": 2},
        {"airdraft_journal": 2, "semantic": None},
        {"airdraft_journal": 2, "semantic": WISH | {"max_loss": 0}},
        {"airdraft_journal": 2, "semantic": WISH | {"max_loss": 1.5}},
        {"airdraft_journal": 2, "semantic": WISH | {"max_loss": math.nan}},
        {"airdraft_journal": 2, "semantic": WISH | {"rule": "no-such-rule"}},
        {"airdraft_journal": 2, "semantic": WISH | {"protocol": "all"}},
        {"airdraft_journal": 2, "semantic": WISH | {"protocol": 1}},
        {"airdraft_journal": 2, "semantic": WISH | {"state_kind": None}},
        {"airdraft_journal": 2, "semantic": WISH | {"state_width": 7}},
        {"airdraft_journal": 2, "semantic": {"max_loss": 0.01}},
    ],
)
def test_a_forged_head_is_damage(journal: Journal, changes: dict[str, object]) -> None:
    path = journal.path.with_name("forged")
    path.write_bytes(forged_head(journal, **changes))
    assert f"{path} is damaged at line 1: " in refusal(lambda: Journal.open(path))


@pytest.mark.parametrize(
    "record",
    [
        {"epoch": 1},
        {"epoch": 0},
        {"epoch": -1},
        {"epoch": 2**32},
        {"epoch": True},
        {"epoch": 2, "base": 5},
        {"base": 3, "ids": [10, 11]},
        {"base": 6, "ids": [1]},
        {"base": 5, "ids": []},
        {"base": 5, "ids": [1] * 63},
        {"base": 5, "ids": [2**32]},
        {"base": 5, "ids": [-1]},
        {"base": 5, "ids": [1.0]},
        {"base": 5, "ids": None},
        {"base": 5.0, "ids": [1]},
        {"base": 5, "ids": [1], "stop": "boredom"},
        {"base": 5, "ids": [1], "stop": ["stop_token"]},
        {"base": 5, "ids": [1], "receipt": "0"},
        {"base": 5, "ids": [1], "receipt": 5},
        {"base": 5, "ids": [1], "colour": 5},
        {"base": 5},
        {},
        [],
        None,
        b"[" * 100_000,
        b'{"epoch":' + b"9" * 5000 + b"}",
        b'{"epoch":2}{"epoch":3}',
        b'\xff\xfe{"epoch":2}',
        b"",
    ],
)
def test_a_forged_record_is_damage_even_as_the_last(journal: Journal, record: object) -> None:
    path = journal.path.with_name("forged")
    content = journal.path.read_bytes() + line(record)
    path.write_bytes(content)
    assert f"{path} is damaged at line 4: " in refusal(lambda: Journal.open(path))
    assert path.read_bytes() == content


def test_settings_that_the_writer_did_not_know_are_off(journal: Journal) -> None:
    path = journal.path.with_name("older")
    path.write_bytes(forged_head(journal, sampling={"temperature": 1}))
    with Journal.open(path) as older:
        assert older.head.sampling == Sampling(temperature=1.0)
        assert type(older.head.sampling.temperature) is float


@given(st.sampled_from(["airdraft_journal", "session_id", "sampling", "stop_ids", "prompt", "edges", "epoch"]), JSON)
@settings(max_examples=150)
def test_no_forged_value_gives_anything_but_a_journal_or_its_error(name: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        Journal.create(path, HEAD).close()
        head = path.read_bytes()
        forged = head + line({"epoch": value}) if name == "epoch" else line(fields(head) | {name: value})
        path.write_bytes(forged + line(value))
        with contextlib.suppress(JournalError):
            Journal.open(path).close()
