"""``edge_node`` as it comes, around an engine whose errors say all they know.

``python -m tests.system.sly_edge serve …``.
With ``--fd N`` this is the engine's process. A text with ``FAILS`` in it makes a pass raise, one with ``CRASHES`` ends
the process by an error that nobody catches; both quote the ids that they were at, in every way there is.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence

WORDS = 256
FAILS, CRASHES = 3, 4
MARK = "telltale"
"""A word of the errors' own."""


def tokenizer_json() -> str:
    """Return a tokenizer of words w0, w1 and so on, by their ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return str(tokenizer.to_str())


def said(ids: Sequence[int]) -> str:
    """Return ids as errors may quote them."""
    data = bytes(ids)
    return f"{MARK} {list(ids)} {tuple(ids)} {data!r} {data.hex()} {base64.b64encode(data).decode()}"


def engine(descriptor: int) -> None:
    from torch import Tensor

    from airdraft.core.tokenizer_digest import tokenizer_digest
    from airdraft.core.types import Span
    from bench.stub_edge import StubEngine
    from edge_node.engine.process import Report, Runner, run_child
    from edge_node.engine.runner import StepRunner
    from edge_node.engine_messages import Load, Loaded
    from edge_node.step import Extent, Step, StepDone

    class Sly(StubEngine):
        def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
            for _, span in work:
                if FAILS in span.tokens:
                    raise RuntimeError(said(span.tokens))
            return super().extend(work)

    class Telling(StepRunner):
        def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
            for item in step.items:
                if CRASHES in item.span.tokens:
                    raise ValueError(said(item.span.tokens)) from KeyError(said(item.span.tokens))
            return super().run(step, arrived_s)

    def build(load: Load, report: Report) -> tuple[Runner, Loaded]:
        words = tokenizer_json()
        loaded = Loaded(
            "sly", bytes(32), tokenizer_digest(words), words, None, (0,), WORDS, 1024, "exact/sly", 4096, 8
        )  # fmt: skip
        return Telling(Sly(0.0, 0.0, 4096), WORDS), loaded

    run_child(descriptor, build)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--fd", type=int)
    known, _ = parser.parse_known_args()
    if known.fd is not None:
        engine(known.fd)
    from edge_node.__main__ import main as edge_node
    from edge_node.server import EdgeServer

    defaults = EdgeServer.__init__.__kwdefaults__
    assert defaults is not None
    defaults["engine"] = (sys.executable, "-m", "tests.system.sly_edge")
    edge_node()


if __name__ == "__main__":
    main()
