"""Edges and devices as processes, while links, edges and devices fail by the dice: no token may differ."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from bench.soak import Extent, failed, run
from bench.stub_model import WORDS, known_texts, write_stubs
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.engine.sampling import choose_rows
from tests.shapes import plain_logits


@pytest.mark.slow
@pytest.mark.timeout(400)  # the processes' imports alone take long where all cores are busy
def test_no_fault_costs_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(Extent(seconds=30, devices=4, texts=4, tokens=500, pause_s=0.8, long_outage_s=5.0), seed=1)
    said = capsys.readouterr().out
    assert result.figures["mismatches"] == 0, said
    assert not failed(result), said
    assert result.figures["near_ties"] == 0, said
    assert result.figures["faults"] >= 10
    assert result.figures["generations"] >= 4
    assert result.figures["tokens"] >= 500


@pytest.mark.slow
def test_the_known_texts_are_the_targets_own(tmp_path: Path) -> None:
    target = load_target(str(write_stubs(tmp_path)[0]))
    TargetEngine(target, 256)  # it is one that the engine serves
    for text in known_texts(6, 80, Random(1)):
        start, path = len(text.prompt_ids), [*text.prompt_ids, *text.ids]
        logits = plain_logits(target.model, path)[start - 1 : -1]
        before = [path[: start + index] for index in range(len(text.ids))]
        assert choose_rows(logits, text.sampling, WORDS, before) == text.ids
        assert not target.stop_ids
