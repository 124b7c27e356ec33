"""Command line of the coordinator. The fleet service joins it later; a single machine needs no coordinator process."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from airdraft.command_line import application
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Setting
from coordinator.policy.plan import OBJECTIVES, Plan, plan

app = application("coordinator", "Decide from the channel how far to draft.")


@app.command()
def advise(
    rtt_ms: Annotated[float, typer.Option(min=0, help="Round trip between device and edge.")],
    pass_ms: Annotated[float, typer.Option(min=0, help="One pass of the target over one position.")],
    draft_ms: Annotated[float, typer.Option(min=0, help="One drafted token on the device.")],
    acceptance: Annotated[float, typer.Option(min=0, max=1, help="Chance that a drafted token is accepted.")],
    pass_ms_per_position: Annotated[float, typer.Option(min=0, help="What each further position adds.")] = 0.0,
    up_kbit_s: Annotated[float | None, typer.Option(min=1, help="Rate of the uplink. [default: no limit]")] = None,
    run_ahead: Annotated[bool, typer.Option(help="Does the edge go ahead of its devices?")] = True,
    edge_draft_ms: Annotated[
        float | None, typer.Option(min=0, help="One drafted token on the edge. [default: it has no drafter]")
    ] = None,
    edge_draft_length: Annotated[int, typer.Option(min=1, max=64, help="Tokens that it drafts a pass.")] = 4,
    objective: Annotated[str, typer.Option(help=" or ".join(OBJECTIVES) + ".")] = "latency",
) -> None:
    """Print what each way of drafting is expected to cost, the cheapest first, and the options that ask for it."""
    if objective not in OBJECTIVES:
        raise typer.BadParameter(f"{objective} is none of {', '.join(OBJECTIVES)}", param_hint="--objective")
    setting = Setting(
        rtt_ms / 1000,
        draft_ms / 1000,
        PassCost(pass_ms / 1000, pass_ms_per_position / 1000),
        (acceptance,),
        math.inf if edge_draft_ms is None else edge_draft_ms / 1000,
        math.inf if up_kbit_s is None else up_kbit_s * 125,
    )
    own_tokens = 0 if edge_draft_ms is None else edge_draft_length
    decision = plan(setting, OBJECTIVES[objective], runs_ahead=run_ahead, own_tokens=own_tokens)
    for line in decision.explained():
        typer.echo(line)
    typer.echo(f"by this model: {_options(decision.plan)}")


def _options(taken: Plan) -> str:
    """Return the device's options that come nearest to a plan."""
    if taken.mode == "edge":
        return "--draft-length 0: the edge alone"
    if taken.outstanding > 1:
        return "--schedule pipelined"
    return f"--schedule sync --draft-length {taken.frame_tokens}"


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
