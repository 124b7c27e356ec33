"""What a user sees: text, drafts, and what the text waits for."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from airdraft.core.session import Committed
from airdraft.core.types import Granted, HiddenProtocol, Origin, Semantic
from device_client.display import LEGEND, PipeDisplay, TerminalDisplay

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


UNDERLINED = "\x1b[4m"


def by_meaning(ids: Sequence[int], origins: Sequence[Origin]) -> Committed:
    return Committed(3, tuple(ids), tuple(origins), None)


def test_what_stands_by_meaning_is_underlined_and_explained() -> None:
    console, err = Console(file=io.StringIO(), force_terminal=True, width=60, no_color=True), io.StringIO()
    display = TerminalDisplay(console, err)
    with display.showing(tokenizer()):
        display.committed(by_meaning([1, 2, 3], [Origin.ACCEPTED, Origin.MEANING, Origin.RECOVERED]))
        assert f"one{UNDERLINED} two\x1b[0m three" in screen(console)  # without a colour too
        display.drafted([4])
    assert display.text == "one two three"
    assert err.getvalue() == LEGEND + "\n"


def test_marks_stay_where_they_are_over_lines() -> None:
    lines = Tokenizer(WordLevel({"a\n": 0, "b": 1, "\nc": 2}, unk_token="b"))
    console = Console(file=io.StringIO(), force_terminal=True, width=60, no_color=True)
    display = TerminalDisplay(console, io.StringIO())
    with display.showing(lines):
        display.committed(by_meaning([0], [Origin.MEANING]))
        assert f"{UNDERLINED}a\x1b[0m\n" in screen(console).replace("\r", "")
        before = len(screen(console))
        display.committed(by_meaning([1, 2], [Origin.BONUS, Origin.ACCEPTED]))
        assert UNDERLINED not in screen(console)[before:]
    assert display.text == "a\n b \nc"


def test_without_a_mark_there_is_nothing_to_explain() -> None:
    console, err = Console(file=io.StringIO(), force_terminal=True, width=60), io.StringIO()
    display = TerminalDisplay(console, err)
    with display.showing(tokenizer()):
        display.committed(by_meaning([1, 2], [Origin.ACCEPTED, Origin.RECOVERED]))
    assert UNDERLINED not in screen(console)
    assert err.getvalue() == ""


def test_a_pipe_holds_the_text_alone() -> None:
    out, err = io.StringIO(), io.StringIO()
    display = PipeDisplay(out, err)
    with display.showing(tokenizer()):
        display.committed(by_meaning([1, 2], [Origin.MEANING, Origin.MEANING]))
    assert out.getvalue() == "one two\n"
    assert err.getvalue() == ""


def test_less_than_was_asked_for_is_said_once_for_each_edge_that_grants_it() -> None:
    wish, head = Semantic(0.02, protocol=HiddenProtocol.FULL_HIDDEN), "this edge has no head"
    for display in (
        PipeDisplay(err=(err := io.StringIO())),
        TerminalDisplay(Console(file=io.StringIO()), terminal := io.StringIO()),
    ):
        display.granted(None, Granted())
        display.granted(wish, Granted(0.02, "head", HiddenProtocol.FULL_HIDDEN))
        display.granted(wish, Granted(reason=head))
        display.granted(wish, Granted(reason=head))  # after a loss
        display.granted(wish, Granted(0.01, "head", HiddenProtocol.TARGET_ONLY, "so it is"))
        display.granted(wish, Granted(0.02, "head", HiddenProtocol.FULL_HIDDEN))
        display.granted(wish, Granted(reason=head))
    exact = f"device_client: nothing is accepted by meaning, the text is the target's own: {head}"
    less = "device_client: granted a quality loss of 0.01 at most, not 0.02 and target-only, not full-hidden: so it is"
    assert err.getvalue().splitlines() == [exact, less, exact]
    assert terminal.getvalue() == err.getvalue()
