"""Command line of the coordinator. The fleet service joins it later; a single machine needs no coordinator process."""

from __future__ import annotations

from typing import Annotated

import typer

from airdraft.command_line import application
from coordinator.policy.costs import PassCost, RoundCost, best_draft_length

app = application("coordinator", "Decide from the channel how far to draft.")


@app.command()
def advise(
    rtt_ms: Annotated[float, typer.Option(min=0, help="Round trip between device and edge.")],
    pass_ms: Annotated[float, typer.Option(min=0, help="One pass of the target over one position.")],
    draft_ms: Annotated[float, typer.Option(min=0, help="One drafted token on the device.")],
    acceptance: Annotated[float, typer.Option(min=0, max=1, help="Chance that a drafted token is accepted.")],
    pass_ms_per_position: Annotated[float, typer.Option(min=0, help="What each further position adds.")] = 0.0,
) -> None:
    """Print what the models of DESIGN §3B expect of each synchronous draft length, and the best one."""
    cost = RoundCost(rtt_ms / 1000, draft_ms / 1000, PassCost(pass_ms / 1000, pass_ms_per_position / 1000), acceptance)
    best = best_draft_length(cost)
    typer.echo(f"{'draft length':>12}  {'ms a token':>10}  {'tokens a round':>14}")
    for length in sorted({1, 2, 4, 8, 12, 16, best}):
        mark = "  <- best" if length == best else ""
        typer.echo(f"{length:>12}  {cost.split_s(length) * 1000:>10.1f}  {cost.tokens_a_round(length):>14.2f}{mark}")
    alone_ms = cost.edge_alone_s() * 1000
    typer.echo(f"{'edge alone':>12}  {alone_ms:>10.1f}  {1:>14.2f}")
    winner = f"--draft-length {best}" if cost.split_s(best) * 1000 < alone_ms else "--draft-length 0: the edge alone"
    typer.echo(f"by this model: {winner}")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
