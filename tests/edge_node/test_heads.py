"""Heads on disk: what is written is read, and what is broken, cut off or another model's is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from airdraft.checkpoint import files_digest
from airdraft.core.meaning import Channel, HeadTail, RiskTable
from edge_node.heads import METADATA_KEY, SCALAR_COUNT, HeadFile, HeadRefused, load_head, save_head
from tests.heads import DRAFTER, MANIFEST, TARGET

DEMO = Path(__file__).parents[2] / "models" / "demo"
DRAFTERS = ("drafter", "drafter-60", "drafter-40")
VARIANTS = ("", ".full", ".full-no-channel")
WIDTH, STATE, TARGET_WIDTH = 3, 5, 4
FEATURES = 3 * TARGET_WIDTH + SCALAR_COUNT

Tensors = dict[str, NDArray[Any]]


def head(*, full: bool = True) -> HeadFile:
    """A head of random weights, with all parts or only those that a target-only one has."""
    chance = np.random.default_rng(1)

    def weights(*shape: int) -> NDArray[np.float32]:
        return chance.standard_normal(shape).astype(np.float32)

    tail = HeadTail(
        name="random",
        features="draft+target" if full else "target-only",
        bias=weights(WIDTH),
        out=weights(WIDTH),
        out_bias=0.25,
        calibration_x=np.array([-2.0, 0.0, 3.0]),
        calibration_y=np.array([0.01, 0.2, 0.9]),
        table=RiskTable(np.array([0.01, 0.1]), np.array([0.004, 0.03]), np.array([0.002, 0.02])),
        activation="relu",
        draft=weights(WIDTH, STATE) if full else None,
        channel=weights(WIDTH, 2) if full else None,
        channel_mean=np.array([-3.0, 14.0], dtype=np.float32),
        channel_scale=np.array([1.5, 2.0], dtype=np.float32),
    )
    draft_width = STATE if full else 0
    manifest = replace(
        MANIFEST, name=tail.name, kind="mlp", features=tail.features, draft_width=draft_width, has_channel=full
    )
    return HeadFile(tail, weights(WIDTH, FEATURES), manifest)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_head(tmp_path / "random.safetensors", head())
    return tmp_path / "random.safetensors"


def parts_of(path: Path) -> tuple[Tensors, dict[str, Any]]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[METADATA_KEY])  # noqa: SIM118


def rewrite(path: Path, tensors: Tensors, manifest: dict[str, Any]) -> None:
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(manifest)})


@pytest.mark.parametrize("full", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, full: bool) -> None:
    saved = head(full=full)
    save_head(tmp_path / "one.safetensors", saved)
    loaded = load_head(tmp_path / "one.safetensors", model_digest=TARGET, drafter_digest=DRAFTER)
    assert loaded.manifest == saved.manifest
    assert np.array_equal(loaded.target, saved.target)
    state, channel = np.arange(STATE, dtype=np.float32), Channel(0.05, 2e6)
    for partial in np.random.default_rng(0).standard_normal((20, WIDTH)):
        assert loaded.tail.risk(partial, state, channel) == saved.tail.risk(partial, state, channel)
    assert loaded.tail.table.threshold(0.01) == 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"]


def test_another_models_head_is_refused(path: Path) -> None:
    with pytest.raises(HeadRefused, match="another target"):
        load_head(path, model_digest=b"x" * 32)
    with pytest.raises(HeadRefused, match="another drafter"):
        load_head(path, model_digest=TARGET, drafter_digest=b"x" * 32)


def test_a_file_that_is_cut_off_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(HeadRefused, match="cannot be read"):
            load_head(path)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadRefused, match="cannot be read"):
        load_head(tmp_path / "missing.safetensors")
    with pytest.raises(HeadRefused, match="cannot be read"):
        load_head(tmp_path)
    with pytest.raises(HeadRefused, match="no semantic head"):
        load_head(DEMO / "drafter" / "model.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    ["target", "bias", "out", "out_bias", "draft", "channel", "channel_scale", "calibration_x", "loss_upper95"],
)
def test_a_number_that_is_not_finite_is_refused(path: Path, name: str, bad: float) -> None:
    tensors, manifest = parts_of(path)
    tensors[name].flat[-1] = bad
    rewrite(path, tensors, manifest)
    with pytest.raises(HeadRefused, match=f"{name} holds a number that is not finite"):
        load_head(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("target", (WIDTH, FEATURES + 1)), ("target", (WIDTH + 1, FEATURES)), ("target", (WIDTH * FEATURES,)),
        ("target", (0, FEATURES)), ("bias", (WIDTH, 1)), ("out", (WIDTH + 1,)), ("out_bias", (0,)),
        ("draft", (WIDTH, STATE + 1)), ("draft", (STATE, WIDTH)), ("draft", (STATE,)), ("channel", (WIDTH, 3)),
        ("channel_mean", (3,)), ("calibration_x", (4,)), ("calibration_y", (0,)), ("thresholds", (3,)),
        ("loss_mean", (2, 1)),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_refused(path: Path, name: str, shape: tuple[int, ...]) -> None:
    tensors, manifest = parts_of(path)
    tensors[name] = np.full(shape, 0.5, dtype=tensors[name].dtype)
    rewrite(path, tensors, manifest)
    with pytest.raises(HeadRefused, match="broken head"):
        load_head(path)


def test_a_wrong_type_or_set_of_tensors_is_refused(path: Path) -> None:
    tensors, manifest = parts_of(path)
    rewrite(path, tensors | {"target": tensors["target"].astype(np.int32)}, manifest)
    with pytest.raises(HeadRefused, match="target is of type int32"):
        load_head(path)
    rewrite(path, {name: part for name, part in tensors.items() if name != "draft"}, manifest)
    with pytest.raises(HeadRefused, match="differs in draft"):
        load_head(path)
    rewrite(path, tensors | {"more": tensors["bias"]}, manifest)
    with pytest.raises(HeadRefused, match="differs in more"):
        load_head(path)


def test_a_calibration_that_falls_is_refused(path: Path) -> None:
    tensors, manifest = parts_of(path)
    rewrite(path, tensors | {"calibration_y": np.array([0.2, 0.1, 0.9])}, manifest)
    with pytest.raises(HeadRefused, match="never fall"):
        load_head(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2"), ({"format": None}, "format None"), ({"kind": "forest"}, "'forest'"),
        ({"features": "all"}, "'all'"), ({"target_width": "4"}, "other fields"), ({"auc": None}, "other fields"),
        ({"labels": True}, "other fields"), ({"extra": 1}, "other fields"), ({"draft_width": 7}, "broken head"),
        ({"has_channel": False}, "broken head"), ({"target_width": 5}, "broken head"),
        ({"name": "x" * 81}, "no name of 80"), ({"name": "two\nlines"}, "no name of 80"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_understood_is_refused(path: Path, change: dict[str, Any], words: str) -> None:
    tensors, manifest = parts_of(path)
    rewrite(path, tensors, manifest | change)
    with pytest.raises(HeadRefused, match=words):
        load_head(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"name": "x"}', "[" * 5000])
def test_a_broken_manifest_is_refused(path: Path, text: str) -> None:
    tensors, _ = parts_of(path)
    save_file(tensors, path, metadata={METADATA_KEY: text})
    with pytest.raises(HeadRefused, match="broken manifest"):
        load_head(path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_shipped_heads_are_for_the_shipped_models(drafter: str, variant: str) -> None:
    path = DEMO / "heads" / f"{drafter}{variant}.safetensors"
    target, drafts = files_digest(DEMO / "target"), files_digest(DEMO / drafter)
    shipped = load_head(path, model_digest=target, drafter_digest=drafts)
    manifest, table = shipped.manifest, shipped.tail.table
    assert path.stat().st_size <= 150_000
    assert manifest.features == ("draft+target" if variant else "target-only")
    assert manifest.has_channel == (variant == ".full")
    assert manifest.ece <= 0.03
    assert manifest.auc >= 0.97
    assert manifest.table_problems >= 1500
    assert 0 < table.threshold(0.01) <= table.threshold(0.05)
    assert (table.loss_upper95 > table.loss_mean).all()
    assert (table.loss_upper95 >= 2.9 / manifest.table_problems).all()


def test_the_main_head_was_tested_on_enough_labels() -> None:
    manifest = load_head(DEMO / "heads" / "drafter.safetensors").manifest
    assert manifest.labels >= 25_000
    assert manifest.test_labels >= 5_000
