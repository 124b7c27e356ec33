"""``edge_node train-head``: a folder of labels in, a calibrated head with its risk table out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from airdraft.core.meaning.head import Features, HeadTail
from airdraft.core.meaning.risk import RiskTable
from edge_node.heads import HeadFile, HeadManifest, save_head
from edge_node.labels.calibration import Calibration, calibration_error, isotonic, ranking
from edge_node.labels.fitting import Floats, Recipe, Refresh, Weights, fit
from edge_node.labels.mining import load_pair, room_of
from edge_node.labels.problems import LabelsRefused, Problem, read_problems
from edge_node.labels.rehearsal import Rehearsed, rehearse
from edge_node.labels.relabelling import (
    CHANNEL_MEAN,
    CHANNEL_SCALE,
    corners,
    drawn_channels,
    relabelling,
    round_bytes,
)
from edge_node.labels.search import Pair, Settings
from edge_node.labels.shards import Labels, LabelsManifest, read_labels, read_manifest
from edge_node.labels.speculate import Score

Supervision = Literal["calibrated", "cost-aware"]
Say = Callable[[str], None]

LEAST_LABELS = 100
_SHARES = (0.6, 0.18)  # of the problems: training, calibration; the rest is the test
_CAPS = (0.005, 0.01, 0.02)  # that the last lines speak of


@dataclass(frozen=True, slots=True)
class Training:
    """What ``train-head`` was told."""

    labels: Path
    out: Path
    prompts: Path  # of the risk table: problems that no label is of
    features: Features = "target-only"
    channel: bool = False
    supervision: Supervision = "calibrated"
    recipe: Recipe = field(default_factory=Recipe)
    draft_length: int = 16
    budget: float = 0.01  # of cost-aware relabelling: share of answers
    model: str | None = None  # None is what the labels were mined with
    draft_model: str | None = None
    batch: int = 64
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1


class Split(NamedTuple):
    """Which labels serve what; those of one problem all the same."""

    train: NDArray[np.bool_]
    calibration: NDArray[np.bool_]
    test: NDArray[np.bool_]


class Fitted(NamedTuple):
    """A head before its rehearsal."""

    weights: Weights
    calibration: Calibration
    auc: float
    ece: float
    test_labels: int


def train(training: Training, say: Say) -> HeadFile:
    """Train, calibrate, rehearse and write a head; return it.

    Raises LabelsRefused and CheckpointRefused.
    """
    if training.supervision == "cost-aware" and not training.channel:
        raise LabelsRefused("cost-aware supervision makes labels of the channel: add --channel")
    torch.set_num_threads(training.threads)
    manifest, labels = read_manifest(training.labels), read_labels(training.labels)
    problems = _fresh(training.prompts, labels)
    pair = _pair(training, manifest, problems)
    fitted = fit_head(labels, training, say)
    head = _head(fitted, labels, training, manifest)
    score = score_of(head, _most_tolerant(head, labels))
    rehearsed = rehearse(
        pair, problems, score, check=manifest.check, draft_length=training.draft_length,
        max_tokens=manifest.max_tokens, say=say,
    )  # fmt: skip
    head = HeadFile(
        replace(head.tail, table=rehearsed.table),
        head.target,
        replace(head.manifest, table_problems=rehearsed.problems),
    )
    save_head(training.out, head)
    _tell(rehearsed, say)
    return head


def fit_head(labels: Labels, training: Training, say: Say) -> Fitted:
    """Train a head and calibrate it on labels of other problems. Raises LabelsRefused where there are too few."""
    if len(labels.harm) < LEAST_LABELS:
        raise LabelsRefused(f"{len(labels.harm)} labels are too few to train on; mine {LEAST_LABELS} or more")
    split = split_of(labels.problem, training.recipe.seed)
    inputs, harms = _inputs(labels, training.features), labels.harm
    refresh = _refresh(labels, split, training, say) if training.channel else None
    weights = fit(inputs[split.train], harms[split.train], training.recipe, refresh)
    chance = np.random.default_rng(training.recipe.seed + 1)
    if training.channel:
        inputs = np.hstack([inputs, drawn_channels(len(inputs), chance)])
    calibration = isotonic(weights.logits(inputs[split.calibration]), harms[split.calibration])
    logits, test = weights.logits(inputs[split.test]), harms[split.test]
    fitted = Fitted(
        weights,
        calibration,
        ranking(logits, labels.greedy_harm[split.test]),
        calibration_error(calibration.risks(logits), test),
        len(test),
    )
    say(
        f"trained on {int(split.train.sum())} labels; on {len(test)} that it has not seen: AUC {fitted.auc:.4f}, "
        f"calibration error {fitted.ece:.4f}"
    )
    return fitted


def split_of(problems: NDArray[np.int32], seed: int) -> Split:
    """Split labels by their problem [n]."""
    known = np.unique(problems)
    np.random.default_rng(seed).shuffle(known)
    ends = [round(share * len(known)) for share in np.cumsum(_SHARES)]
    parts = np.split(known, ends)
    return Split(*(np.isin(problems, part) for part in parts))


def score_of(head: HeadFile, standard_channel: Floats | None = None) -> Score:
    """Return a head's risks for many swaps at once, at one channel; as ``HeadTail.risk`` gives them one by one.

    standard_channel  [2]  standardised and within reach; None is not known
    """
    tail = head.tail
    bias = tail.bias.astype(np.float64)
    if tail.channel is not None and standard_channel is not None:
        bias = bias + tail.channel.astype(np.float64) @ standard_channel

    def risks(features: Floats, states: Floats) -> NDArray[np.float64]:
        hidden = features @ head.target.T + bias
        if tail.draft is not None:
            hidden = hidden + states @ tail.draft.T
        if tail.activation == "relu":
            hidden = np.maximum(hidden, 0)
        return np.interp(hidden @ tail.out + tail.out_bias, tail.calibration_x, tail.calibration_y)

    return risks


def _inputs(labels: Labels, features: Features) -> Floats:
    target = labels.features.astype(np.float32)
    return np.hstack([target, labels.state.astype(np.float32)]) if features == "draft+target" else target


def _refresh(labels: Labels, split: Split, training: Training, say: Say) -> Refresh:
    """Return what draws channels for the training labels, and with cost-aware supervision their labels there."""
    harms = labels.harm[split.train]
    width = labels.state.shape[1] if training.features == "draft+target" else 0
    sent = round_bytes(training.draft_length, width)
    if training.supervision == "calibrated":
        return lambda chance: (drawn_channels(len(harms), chance), harms)
    made = relabelling(harms, labels.problem[split.train], sent, training.budget)
    say(f"relabelled at {made.price:.3g} of an answer a second")

    def refresh(chance: np.random.Generator) -> tuple[Floats, Floats]:
        channels = drawn_channels(len(harms), chance)
        return channels, made.labels(harms, channels)

    return refresh


def _fresh(path: Path, labels: Labels) -> list[Problem]:
    problems = read_problems(path)
    seen = labels.prompts()
    if both := sum(problem.digest in seen for problem in problems):
        raise LabelsRefused(
            f"{both} problems of {path} have labels; a risk table is of problems that training has not seen"
        )
    return problems


def _pair(training: Training, manifest: LabelsManifest, problems: list[Problem]) -> Pair:
    names = training.model or manifest.model, training.draft_model or manifest.draft_model
    target, drafter = load_pair(*names, training.device, training.dtype)
    if target.model_digest.hex() != manifest.target_digest:
        raise LabelsRefused(f"the labels are of another target than {names[0]}; name theirs with --model")
    if drafter.model_digest.hex() != manifest.drafter_digest:
        raise LabelsRefused(f"the labels are of another drafter than {names[1]}; name theirs with --draft-model")
    settings = Settings(max_tokens=manifest.max_tokens)
    return Pair(target, drafter, training.batch, 0, room_of(target, problems, settings, training.draft_length))


def _head(fitted: Fitted, labels: Labels, training: Training, manifest: LabelsManifest) -> HeadFile:
    """Return the head with a risk table that accepts nothing."""
    weights, widths = fitted.weights, [labels.features.shape[1]]
    if reads_states := training.features == "draft+target":
        widths.append(labels.state.shape[1])
    parts = np.split(weights.first, np.cumsum(widths), axis=1)
    channel = {"channel_mean": CHANNEL_MEAN, "channel_scale": CHANNEL_SCALE} if training.channel else {}
    tail = HeadTail(
        name=training.out.stem,
        features=training.features,
        bias=weights.bias,
        out=weights.out,
        out_bias=weights.out_bias,
        calibration_x=fitted.calibration.x,
        calibration_y=fitted.calibration.y,
        table=RiskTable(np.ones(1), np.ones(1), np.ones(1)),
        activation="relu" if weights.relu else "identity",
        draft=parts[1] if reads_states else None,
        channel=parts[-1] if training.channel else None,
        **channel,
    )
    return HeadFile(tail, np.ascontiguousarray(parts[0]), _manifest(fitted, labels, training, manifest))


def _manifest(fitted: Fitted, labels: Labels, training: Training, manifest: LabelsManifest) -> HeadManifest:
    return HeadManifest(
        name=training.out.stem,
        kind=training.recipe.kind,
        features=training.features,
        supervision=training.supervision,
        target_digest=manifest.target_digest,
        drafter_digest=manifest.drafter_digest,
        target_width=manifest.target_width,
        draft_width=manifest.draft_width if training.features == "draft+target" else 0,
        has_channel=training.channel,
        task=manifest.check,
        draft_length=training.draft_length,
        labels=len(labels.harm),
        label_problems=len(labels.digests),
        rollouts=manifest.rollouts,
        temperature=manifest.temperature,
        test_labels=fitted.test_labels,
        auc=fitted.auc,
        ece=fitted.ece,
        table_problems=0,
    )


def _most_tolerant(head: HeadFile, labels: Labels) -> Floats | None:
    """Return the channel, standardised [2], where a head that reads it accepts the most; None where it reads none."""
    if head.tail.channel is None:
        return None
    features, states = labels.features.astype(np.float32), labels.state.astype(np.float32)
    return min((standard for _, standard in corners()), key=lambda at: score_of(head, at)(features, states).mean())


def _tell(rehearsed: Rehearsed, say: Say) -> None:
    for cap in _CAPS:
        threshold = rehearsed.table.threshold(cap)
        at = [abs(one - threshold) < 1e-12 for one in rehearsed.table.thresholds].index(True) if threshold else None
        if at is None:
            say(f"cap {cap:.1%}: {rehearsed.problems} problems do not bear it out; nothing is accepted by meaning")
        else:
            gain = rehearsed.lengths[at] / rehearsed.exact_length - 1
            say(
                f"cap {cap:.1%}: threshold {threshold:.3g}, accepted length {gain:+.0%}, "
                f"loss {rehearsed.table.loss_mean[at]:.2%}, at most {rehearsed.table.loss_upper95[at]:.2%}"
            )
