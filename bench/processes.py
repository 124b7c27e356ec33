"""Real processes for demo and bench: an edge node on a free port, pinned to a core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class EdgeFailed(RuntimeError):
    """The edge ended before it listened; its own message went to stderr."""


def pin(core: int) -> None:
    """Keep this process, and what it starts, on one core, where there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


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
