"""Text on a terminal or in a pipe: committed text solid, drafted text dim until it is committed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

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
        self.text = ""

    def add(self, ids: Sequence[int]) -> str:
        """Take ids; return the text that is new."""
        self.ids.extend(ids)
        new = "".join(self._stream.step(self._tokenizer, token) or "" for token in ids)
        self.text += new
        return new

    def with_ahead(self, ahead: Sequence[int]) -> str:
        """Return the text that drafted ids would add."""
        recent = self.ids[-8:]  # enough context for the decoder's spacing rules
        before = self._tokenizer.decode(recent)
        return self._tokenizer.decode([*recent, *ahead])[len(before) :]


class PipeDisplay:
    """Committed text alone, piece by piece; drafts are not text yet."""

    def __init__(self, tokenizer: Tokenizer, out: TextIO | None = None) -> None:
        self.committed_text = CommittedText(tokenizer)
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._out is not None:
            self._out.write("\n")
            self._out.flush()

    def committed(self, event: Committed) -> None:
        """Write what is final."""
        new = self.committed_text.add(event.ids)
        if self._out is not None and new:
            self._out.write(new)
            self._out.flush()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show nothing."""


class TerminalDisplay:
    """Whole lines are printed for good; the last one is redrawn with its drafted part dim."""

    def __init__(self, tokenizer: Tokenizer, console: Console | None = None) -> None:
        self.committed_text = CommittedText(tokenizer)
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._line = ""
        self._ahead: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead = ()
        self._redraw()
        self._live.stop()

    def committed(self, event: Committed) -> None:
        """Turn committed text solid."""
        *lines, self._line = (self._line + self.committed_text.add(event.ids)).split("\n")
        for line in lines:
            self._live.console.print(Text(line))
        self._ahead = ()
        self._redraw()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show tentative text dim."""
        if tuple(ahead) != self._ahead:
            self._ahead = tuple(ahead)
            self._redraw()

    def _redraw(self) -> None:
        tentative = self.committed_text.with_ahead(self._ahead) if self._ahead else ""
        self._live.update(Text.assemble(self._line, (tentative, "dim")), refresh=True)


Display = PipeDisplay | TerminalDisplay


def make_display(tokenizer: Tokenizer, *, quiet: bool) -> Display:
    """Return what fits standard output; ``quiet`` shows nothing and only collects the text."""
    if quiet:
        return PipeDisplay(tokenizer)
    if sys.stdout.isatty():
        return TerminalDisplay(tokenizer)
    return PipeDisplay(tokenizer, sys.stdout)
