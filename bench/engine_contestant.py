"""A contestant's process: ``python -m bench.engine_contestant KIND FOLDER``.

It prints ``ready`` and its settings in words, or ``absent`` and what is missing, then answers every line with a job
(``bench.engine_texts``) by a line of JSON, until its input ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from airdraft.core.drafting import NgramDrafter
from bench.engine_texts import CORE, OTHER_CORE, Contestant, Job, Written, job_of, on_core, written


class OurEdge:
    """Our edge as users have it: front, engine and gRPC on the contestants' core, devices on another."""

    about = "edge_node serve, front and engine on the core, devices on another one"

    def __init__(self, address: str) -> None:
        """Ask the edge at this address."""
        self._address = address

    def write(self, job: Job) -> Written:
        """Write the texts of a job."""
        return asyncio.run(self._write(job))

    async def _write(self, job: Job) -> Written:
        from bench.connections import connections
        from bench.engine_devices import write_texts

        async with connections(self._address, job.texts) as over:
            description = await over[0].describe()
            began_s = time.perf_counter()
            heard = await write_texts(
                over,
                description,
                job.prompts,
                [NgramDrafter() for _ in range(job.texts)],
                new_tokens=job.new_tokens,
                draft_length=0,
            )
        return written(began_s, [text.token_arrivals_s for text in heard], [text.ids for text in heard])


@contextmanager
def _our_edge(folder: Path) -> Iterator[Contestant]:
    from bench.engine_shape import CONTEXT_TOKENS
    from bench.processes import edge_node

    plain = ["--model", str(folder), "--edge-draft-model", "none", "--max-context", str(CONTEXT_TOKENS)]
    with edge_node(plain, core=CORE) as address, on_core(OTHER_CORE):
        yield OurEdge(address)


@contextmanager
def _loaded(kind: str, folder: Path) -> Iterator[Contestant]:
    """Give a contestant. Raises ImportError where what it needs is not installed."""
    if kind == "ours-edge":
        with _our_edge(folder) as edge:
            yield edge
        return
    import torch

    from bench.engine_ours import OurEngine
    from bench.engine_peers import PEERS

    torch.set_num_threads(1)
    makers: dict[str, Callable[[Path], Contestant]] = {"ours": OurEngine, **PEERS}
    with on_core(CORE):
        yield makers[kind](folder)


def main(
    kind: Annotated[str, typer.Argument(help="ours, ours-edge, or one of bench.engine_peers.")],
    folder: Annotated[Path, typer.Argument(help="The checkpoint.")],
) -> None:
    """Write texts to order."""
    try:
        with _loaded(kind, folder) as contestant:
            print("ready", contestant.about, flush=True)
            for line in sys.stdin:
                print(contestant.write(job_of(line)).line, end="", flush=True)
    except ImportError as error:
        print("absent", error, flush=True)


if __name__ == "__main__":
    typer.run(main)
