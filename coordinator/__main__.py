"""Command line of the coordinator. The fleet service joins it later; a single machine needs no coordinator process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from airdraft.command_line import application, run
from coordinator.identity_commands import certs, issuer, key, token
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Setting
from coordinator.policy.plan import OBJECTIVES, Offer, Plan, objective_of, plan
from coordinator.policy.train import Rounds, Row, loss, row_of, train

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
    sessions: Annotated[float, typer.Option(min=1, help="Sessions that share a step of the edge, on average.")] = 1.0,
    price: Annotated[
        float | None,
        typer.Option(min=1, help="Users that a second of the edge keeps waiting, you among them. [default: sessions]"),
    ] = None,
    objective: Annotated[
        str, typer.Option(help=f"{', '.join(OBJECTIVES)}, or weights like user=1,edge=0.5,device=0.1.")
    ] = "latency",
) -> None:
    """Print what each way of drafting is expected to cost, the cheapest first, and the options that ask for it.

    Sessions that share a step are taken to have one position each in it.
    """
    try:
        weights = objective_of(objective)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--objective") from None
    setting = Setting(
        rtt_ms / 1000,
        draft_ms / 1000,
        PassCost(pass_ms / 1000, pass_ms_per_position / 1000),
        (acceptance,),
        math.inf if edge_draft_ms is None else edge_draft_ms / 1000,
        math.inf if up_kbit_s is None else up_kbit_s * 125,
        sharers=sessions,
        others=sessions - 1,
    )
    own_tokens = 0 if edge_draft_ms is None else edge_draft_length
    offer = Offer(run_ahead, own_tokens, sessions if price is None else price)
    decision = plan(setting, weights, offer)
    if sessions > 1 or offer.price > 1:
        typer.echo(f"sessions that share a step: {sessions:g}; users' seconds a second of the edge: {offer.price:g}")
    for line in decision.explained():
        typer.echo(line)
    typer.echo(f"by this model: {_options(decision.plan)}")


def _options(taken: Plan) -> str:
    """Return the device's options that come nearest to a plan."""
    if taken.mode == "edge":
        return f"--draft-length 0: the edge {'with its own drafter' if taken.draft_length else 'alone'}"
    waits = "; only --schedule auto also asks the edge to wait" if taken.waits else ""
    if taken.outstanding > 1:
        return f"--schedule pipelined{waits}"
    return f"--schedule sync --draft-length {taken.frame_tokens}{waits}"


@app.command()
def train_draft_length(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Logs of rounds, as devices write them.")],
    out: Annotated[Path, typer.Option(help="Where the weights go, for a device's draft policy mlp:FILE.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights and of the rounds' order.")] = 0,
) -> None:
    """Train the network of the draft policy mlp from logs of rounds.

    A fifth of the rounds, drawn at random, is kept apart at first, to say what the network is worth on rounds that it
    has not seen. Exit codes: 0 ok, 2 a log that cannot be read or tells too little.
    """
    try:
        rounds = Rounds.of(row for log in logs for row in _rows(log))
        rounds.check()
        trained_on, tried_on = rounds.parted(seed)
        worth = loss(train(trained_on, seed), tried_on)
        out.write_text(train(rounds, seed).to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise _fail(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise _fail(str(error)) from None
    typer.echo(f"{len(rounds)} rounds; loss on {len(tried_on)} not trained on: {worth:+.5f} (0: as without a network)")
    if worth >= 0:
        typer.echo("the network is no better than none on those: log more rounds, of more lengths", err=True)


def _rows(log: Path) -> Iterator[Row]:
    """Yield the rounds of a log. Raises OSError, and ValueError with the place of a line that is none."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = row_of(line)
            except ValueError as error:
                raise ValueError(f"{log}:{number}: {error}") from None
            yield row


def _fail(message: str) -> typer.Exit:
    typer.echo(f"coordinator: {message}", err=True)
    return typer.Exit(2)


app.add_typer(certs, name="certs")
app.command("key")(key)
app.add_typer(issuer, name="issuer")
app.command("token")(token)


def main() -> None:
    """Run the command line."""
    run(app)


if __name__ == "__main__":
    main()
