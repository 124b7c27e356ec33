"""Text on a terminal or in a pipe: committed text solid, drafted text dim until it is committed; what it waits for.

What stands by meaning, drafted here and not the target's own words, is underlined; a pipe holds the text alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from airdraft.core.session import Committed
from airdraft.core.types import Granted, Origin, Semantic
from device_client.meaning import shortfall

BY_MEANING = "underline"
RESTING = "the answer is complete; its padded stream ends in {:.1f} s, so that its length does not show"
LEGEND = "underlined: the small model's own words, accepted by meaning"


class CommittedText:
    """Turns committed ids into text as they come; a character whose bytes span tokens waits for the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._marked = False  # a token whose text is still to come stands by meaning
        self.ids: list[int] = []

    def add(self, ids: Sequence[int]) -> str:
        """Take ids; return the text that is new."""
        return "".join(text for text, _ in self.pieces(ids))

    def pieces(self, ids: Sequence[int], origins: Sequence[Origin] = ()) -> list[tuple[str, bool]]:
        """Take ids; return the text that is new, in pieces, and which of them stand by meaning."""
        self.ids.extend(ids)
        pieces: list[tuple[str, bool]] = []
        for token, origin in zip_longest(ids, origins):
            self._marked = self._marked or origin is Origin.MEANING
            text = self._stream.step(self._tokenizer, token)
            if text:
                pieces.append((text, self._marked))
                self._marked = False
        return pieces

    def with_ahead(self, ahead: Sequence[int]) -> str:
        """Return the text that drafted ids would add."""
        recent = self.ids[-8:]  # enough context for the decoder's spacing rules
        before = self._tokenizer.decode(recent)
        return self._tokenizer.decode([*recent, *ahead])[len(before) :]


class PipeDisplay:
    """Committed text alone, piece by piece; drafts are not text yet. What it waits for goes to standard error."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        """Write text to ``out`` and notices to ``err``, each where it is given."""
        self.text = ""
        self._out, self._err = out, err
        self._decoder: CommittedText | None = None
        self._waiting = False
        self._less = ""

    @contextmanager
    def showing(self, tokenizer: Tokenizer) -> Iterator[None]:
        """Show text as long as the block lasts."""
        self._decoder = CommittedText(tokenizer)
        try:
            yield
        finally:
            if self._out is not None:
                self._out.write("\n")
                self._out.flush()

    def committed(self, event: Committed) -> None:
        """Write what is final."""
        assert self._decoder is not None
        new = self._decoder.add(event.ids)
        self.text += new
        if self._out is not None and new:
            self._out.write(new)
            self._out.flush()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show nothing."""

    def granted(self, wish: Semantic | None, granted: Granted) -> None:
        """Say it where an edge grants less than was asked for."""
        less = "" if wish is None else shortfall(wish, granted)
        if less and less != self._less:
            self._say(less)
        self._less = less

    def waiting(self, reason: str) -> None:
        """Say once for each loss what the text waits for."""
        if not self._waiting:
            self._say(f"reconnecting ({reason}); the text so far is kept")
        self._waiting = True

    def back(self, edge: str, after_s: float) -> None:
        """Say that the text goes on, where it was said that it does not."""
        if self._waiting:
            self._say(f"going on with edge {edge} after {after_s:.1f} s")
        self._waiting = False

    def resting(self, seconds: float) -> None:
        """Say that the text is over, and a padded stream is not."""
        self._say(RESTING.format(seconds))

    def _say(self, message: str) -> None:
        if self._err is not None:
            print(f"device_client: {message}", file=self._err, flush=True)


class TerminalDisplay:
    """Whole lines are printed for good; the last one is redrawn with its drafted part dim, and what it waits for."""

    def __init__(self, console: Console | None = None, err: TextIO | None = None) -> None:
        """Draw on ``console``, standard output where none is given; notices go to ``err``, or to standard error."""
        self.text = ""
        self._err = err
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._decoder: CommittedText | None = None
        self._line = Text()
        self._ahead: tuple[int, ...] = ()
        self._waits_for = ""
        self._less = ""
        self._marks = False  # something was underlined

    @contextmanager
    def showing(self, tokenizer: Tokenizer) -> Iterator[None]:
        """Show text as long as the block lasts."""
        self._decoder = CommittedText(tokenizer)
        self._live.start()
        try:
            yield
        finally:
            self._ahead, self._waits_for = (), ""
            self._redraw()
            self._live.stop()
            if self._marks:
                print(LEGEND, file=self._err or sys.stderr, flush=True)

    def committed(self, event: Committed) -> None:
        """Turn committed text solid."""
        assert self._decoder is not None
        for piece, by_meaning in self._decoder.pieces(event.ids, event.origins):
            self.text += piece
            self._line.append(piece, BY_MEANING if by_meaning else None)
            self._marks = self._marks or by_meaning
        *lines, self._line = self._line.split("\n", allow_blank=True)
        for line in lines:
            self._live.console.print(line)
        self._ahead, self._waits_for = (), ""
        self._redraw()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show tentative text dim."""
        if tuple(ahead) != self._ahead:
            self._ahead = tuple(ahead)
            self._redraw()

    def granted(self, wish: Semantic | None, granted: Granted) -> None:
        """Say it above the text where an edge grants less than was asked for."""
        less = "" if wish is None else shortfall(wish, granted)
        if less and less != self._less:
            print(f"device_client: {less}", file=self._err or sys.stderr, flush=True)  # Live puts it above its line
        self._less = less

    def waiting(self, reason: str) -> None:
        """Show what the text waits for, below it."""
        self._waits_for = f"reconnecting… {reason}"
        self._redraw()

    def back(self, edge: str, after_s: float) -> None:
        """Show nothing: the text goes on, which is what there is to see."""

    def resting(self, seconds: float) -> None:
        """Say that the text is over, and a padded stream is not."""
        print(f"device_client: {RESTING.format(seconds)}", file=self._err or sys.stderr, flush=True)

    def _redraw(self) -> None:
        if self._decoder is None:
            self._console.print(Text(self._waits_for, "yellow"))
            return
        tentative = self._decoder.with_ahead(self._ahead) if self._ahead else ""
        below = ("\n" + self._waits_for, "yellow") if self._waits_for else ""
        self._live.update(Text.assemble(self._line, (tentative, "dim"), below), refresh=True)


Display = PipeDisplay | TerminalDisplay


def make_display(*, quiet: bool) -> Display:
    """Return what fits standard output; ``quiet`` shows no text and only collects it."""
    if quiet:
        return PipeDisplay(err=sys.stderr)
    if sys.stdout.isatty():
        return TerminalDisplay()
    return PipeDisplay(sys.stdout, sys.stderr)
