"""What a user sees: text, drafts, and what the text waits for."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from airdraft.core.session import Committed
from device_client.display import PipeDisplay, TerminalDisplay

WORDS = ["<end>", "one", "two", "three", "four"]


def tokenizer() -> Tokenizer:
    return Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<end>"))


def commit(base: int, ids: Sequence[int]) -> Committed:
    return Committed(base, tuple(ids), (), None)


def test_a_pipe_gets_committed_text_alone_and_errors_get_what_it_waits_for() -> None:
    out, err = io.StringIO(), io.StringIO()
    display = PipeDisplay(out, err)
    display.waiting("no edge yet")  # before there is a tokenizer
    with display.showing(tokenizer()):
        display.committed(commit(3, [1]))
        display.back("b:1", 0.25)
        display.drafted([2, 3])
        display.waiting("edge a:1 has been silent for 1.0 s")
        display.waiting("no edge node answers at a:1")  # the same loss: said once
        display.back("b:1", 2.5)
        display.committed(commit(4, [2, 3]))
        display.back("b:1", 0.0)  # nothing was said to be amiss
    assert out.getvalue() == "one two three\n"
    assert display.text == "one two three"
    assert err.getvalue().splitlines() == [
        "device_client: reconnecting (no edge yet); the text so far is kept",
        "device_client: going on with edge b:1 after 0.2 s",
        "device_client: reconnecting (edge a:1 has been silent for 1.0 s); the text so far is kept",
        "device_client: going on with edge b:1 after 2.5 s",
    ]


def screen(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_keeps_the_text_and_shows_the_wait_below_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system="standard")
    display = TerminalDisplay(console)
    with display.showing(tokenizer()):
        display.committed(commit(3, [1, 2]))
        display.drafted([3])
        assert "\x1b[2m three\x1b[0m" in screen(console)  # dim until it is committed
        display.waiting("edge a:1 has been silent for 1.0 s")
        last = screen(console).rpartition("one two")[2]
        assert "three" in last  # what was drafted stays in sight
        assert "reconnecting… edge a:1 has been silent for 1.0 s" in last
        display.committed(commit(5, [4]))
        last = screen(console).rpartition("one two")[2]
        assert "reconnecting" not in last
        assert "three" not in last
    assert display.text == "one two four"
