"""The engine's process around the stub model: ``python -m bench.stub_engine PASS_MS POSITION_MS --fd N``.

The real runner behind the real queue; rows are hashes (``bench.stub_edge``), so that a row of another text writes
another text. A pass lasts ``PASS_MS`` and ``POSITION_MS`` for each of its positions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.stub_edge import DESCRIPTION, VOCABULARY, StubEngine
from edge_node.engine.process import run_child
from edge_node.engine.runner import StepRunner
from edge_node.engine_messages import Load, Loaded


def tokenizer_json() -> str:
    """Return a tokenizer that no text is ever read by."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return str(Tokenizer(WordLevel({"0": 0}, unk_token="0")).to_str())


def main(pass_s: float, position_s: float, descriptor: int) -> None:
    """Be the engine's process."""

    def build(load: Load, report: Callable[[str], None]) -> tuple[StepRunner, Loaded]:
        import torch

        from airdraft.core.drafting import NgramDrafter
        from edge_node.engine.assembly import text_rows
        from edge_node.engine.drafter import SessionDrafters

        torch.set_num_threads(1)
        rows = load.kv_tokens or load.max_sessions * text_rows(load.max_context)
        engine = StubEngine(pass_s, position_s, rows, load.max_context)
        drafter = SessionDrafters(lambda sampling: NgramDrafter()) if load.draft_model == "ngram" else None
        loaded = Loaded(
            DESCRIPTION.model_name,
            DESCRIPTION.model_digest,
            DESCRIPTION.tokenizer_digest,
            tokenizer_json(),
            None,
            DESCRIPTION.stop_ids,
            VOCABULARY,
            load.max_context,
            DESCRIPTION.numerics,
            rows,
            0,
        )
        return StepRunner(engine, VOCABULARY, drafter), loaded

    run_child(descriptor, build)


if __name__ == "__main__":
    main(float(sys.argv[1]) / 1e3, float(sys.argv[2]) / 1e3, int(sys.argv[4]))
