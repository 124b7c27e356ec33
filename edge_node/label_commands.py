"""The commands that make a head: `mine-labels` and `train-head`. (No deferred annotations: Typer evaluates them.)"""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

USAGE = 2


class HeadKind(StrEnum):
    """What a head is."""

    LOGISTIC = "logistic"
    MLP = "mlp"


class HeadFeatures(StrEnum):
    """What a head reads."""

    TARGET_ONLY = "target-only"
    DRAFT_TARGET = "draft+target"


class HeadSupervision(StrEnum):
    """What a head is trained on."""

    CALIBRATED = "calibrated"
    COST_AWARE = "cost-aware"


Model = Annotated[str, typer.Option(help="Target: demo, a folder, or a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; as it will serve.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")]


def mine_labels(
    prompts: Annotated[Path, typer.Option(help="JSON lines: prompt, and if known answer, tests, check.")],
    out: Annotated[Path, typer.Option(help="Folder of the labels; one that was begun is gone on with.")],
    model: Model = "demo",
    draft_model: Annotated[
        str, typer.Option(help="drafter, drafter-60, drafter-40 (of the demo), a folder, or a hub id.")
    ] = "drafter",
    rollouts: Annotated[
        int, typer.Option(min=1, help="Endings a swap: the first greedy, the others sampled; a label is a share.")
    ] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the sampled endings.")] = 0.5,
    check: Annotated[
        str,
        typer.Option(help="number, exact, unit-test (runs the answers' code) or own-score; a prompt may name its own."),
    ] = "number",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Problems side by side, and in one file.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled endings.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 1,
) -> None:
    """Find out which of a drafter's tokens change the target's answers, by trying them."""

    def work() -> None:
        from edge_node.labels.mining import Mining, mine
        from edge_node.labels.search import Settings

        settings = Settings(rollouts, temperature, check, max_tokens, seed)
        mine(Mining(model, draft_model, prompts, out, settings, batch, device, dtype, threads), _say)

    _run(work)


def train_head(
    labels: Annotated[Path, typer.Option(help="Folder that mine-labels wrote.")],
    prompts: Annotated[
        Path, typer.Option(help="JSON lines of problems without labels: what thresholds cost is measured on them.")
    ],
    out: Annotated[Path, typer.Option(help="File of the head, .safetensors.")],
    kind: Annotated[HeadKind, typer.Option(help="What it is.")] = HeadKind.MLP,
    features: Annotated[
        HeadFeatures, typer.Option(help="Whether the drafter's states must come up for it.")
    ] = HeadFeatures.TARGET_ONLY,
    channel: Annotated[bool, typer.Option("--channel/--no-channel", help="Whether it reads the channel.")] = False,
    supervision: Annotated[
        HeadSupervision, typer.Option(help="The labels as they are, or with the channel's tolerance in them.")
    ] = HeadSupervision.CALIBRATED,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Answers that cost-aware labels may cost, a share.")
    ] = 0.01,
    draft_length: Annotated[int, typer.Option(min=1, help="Tokens a pass where thresholds are tried.")] = 16,
    width: Annotated[int, typer.Option(min=1, max=1024, help="Of an MLP's first layer.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the labels.")] = 40,
    decay: Annotated[float, typer.Option(min=0.0, help="Of the weights; more where labels are few.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of the weights.")] = 0,
    model: Annotated[str | None, typer.Option(help="Target. [default: as mined]")] = None,
    draft_model: Annotated[str | None, typer.Option(help="Drafter. [default: as mined]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts side by side.")] = 64,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 1,
) -> None:
    """Train a head on labels, calibrate it, and measure what each threshold on risk costs in answers."""

    def work() -> None:
        from edge_node.labels.fitting import Recipe
        from edge_node.labels.training import Training, train

        training = Training(
            labels=labels,
            out=out,
            prompts=prompts,
            features=features.value,
            channel=channel,
            supervision=supervision.value,
            recipe=Recipe(kind.value, width, epochs, decay=decay, seed=seed),
            draft_length=draft_length,
            budget=budget,
            model=model,
            draft_model=draft_model,
            batch=batch,
            device=device,
            dtype=dtype,
            threads=threads,
        )
        train(training, _say)

    _run(work)


def _say(message: str) -> None:
    """Progress goes to stderr, so that pipes stay clean."""
    print(f"edge_node: {message}", file=sys.stderr, flush=True)  # noqa: T201


def _run(work: Callable[[], None]) -> None:
    """Do it; what the user can mend ends with one line."""
    from airdraft.checkpoint import CheckpointRefused
    from edge_node.labels.problems import LabelsRefused

    try:
        work()
    except (LabelsRefused, CheckpointRefused) as error:
        _say(str(error))
        raise typer.Exit(USAGE) from None
