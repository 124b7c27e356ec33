"""Text on a terminal or in a pipe: committed text solid, drafted text dim until it is committed; what it waits for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from airdraft.core.session import Committed


class CommittedText:
    """Turns committed ids into text as they come; a character whose bytes span tokens waits for the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self.ids: list[int] = []

    def add(self, ids: Sequence[int]) -> str:
        """Take ids; return the text that is new."""
        self.ids.extend(ids)
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in ids)

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

    def _say(self, message: str) -> None:
        if self._err is not None:
            print(f"device_client: {message}", file=self._err, flush=True)


class TerminalDisplay:
    """Whole lines are printed for good; the last one is redrawn with its drafted part dim, and what it waits for."""

    def __init__(self, console: Console | None = None) -> None:
        self.text = ""
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._decoder: CommittedText | None = None
        self._line = ""
        self._ahead: tuple[int, ...] = ()
        self._waits_for = ""

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

    def committed(self, event: Committed) -> None:
        """Turn committed text solid."""
        assert self._decoder is not None
        new = self._decoder.add(event.ids)
        self.text += new
        *lines, self._line = (self._line + new).split("\n")
        for line in lines:
            self._live.console.print(Text(line))
        self._ahead, self._waits_for = (), ""
        self._redraw()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show tentative text dim."""
        if tuple(ahead) != self._ahead:
            self._ahead = tuple(ahead)
            self._redraw()

    def waiting(self, reason: str) -> None:
        """Show what the text waits for, below it."""
        self._waits_for = f"reconnecting… {reason}"
        self._redraw()

    def back(self, edge: str, after_s: float) -> None:
        """Show nothing: the text goes on, which is what there is to see."""

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
