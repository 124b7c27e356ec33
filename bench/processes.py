"""Real processes for demo and bench: an edge node on a free port, pinned to a core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from subprocess import PIPE

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class EdgeFailed(RuntimeError):
    """The edge ended before it listened; its own message went to stderr."""


def pin(core: int) -> None:
    """Keep this process, and what it starts, on one core, where there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


@contextmanager
def paced_edges(drafts: Sequence[str]) -> Iterator[list[str]]:
    """Run a ``bench.paced_edge`` for each of ``drafts`` (its ``--edge-draft``); give their addresses, in order.

    Raises EdgeFailed.
    """
    commands = [[sys.executable, "-m", "bench.paced_edge", "--edge-draft", draft] for draft in drafts]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=os.environ | ONE_THREAD)
            )
            for command in commands
        ]
        for process in processes:
            stack.callback(process.kill)
        yield [_address_of(process) for process in processes]


def _address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    address = ""
    for line in process.stdout:  # blocks until it listens or ends
        if line == "ready\n":
            return address
        address = line.split()[-1]
    raise EdgeFailed("the paced edge did not start; its message stands above")


@contextmanager
def edge_node(arguments: Sequence[str] = (), *, core: int | None = None) -> Iterator[str]:
    """Run ``edge_node serve`` on a free port; give its address; stop it with SIGTERM.

    Raises EdgeFailed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_node", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
        preexec_fn=None if core is None else lambda: pin(core),  # noqa: PLW1509 (no threads here yet)
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # blocks until it listens or ends
        if not line.startswith("listening "):
            raise EdgeFailed("the edge node did not start; its message stands above")
        yield line.split()[1]
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
