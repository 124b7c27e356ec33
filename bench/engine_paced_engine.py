"""The engine's process at a stated pace: ``python -m bench.engine_paced_engine LOG FIXED_MS POSITION_MS --fd N``.

The real runner behind the real queue; only how long a step takes is stated. Every step is a line of JSON in the log:
when it began and ended by ``time.perf_counter()``, its positions, its sessions, and by how much it ended late.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from msgspec.structs import replace

from airdraft.link.pacing import Pacer
from coordinator.policy.costs import PassCost
from edge_node.engine.process import Runner, run_child
from edge_node.engine_messages import Load, Loaded, LoadFailed
from edge_node.step import Drafted, DraftStep, Step, StepDone


class PacedRunner:
    """A runner whose steps last what a cost line says."""

    def __init__(self, runner: Runner, line: PassCost, pacer: Pacer, log: TextIO) -> None:
        """Let a step over n positions last ``line.seconds(n)``, those that it computes in vain not counted."""
        self._runner, self._line, self._pacer, self._log = runner, line, pacer, log

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        """Run a step; return when it is due to end."""
        began_s = self._pacer.clock()
        done = self._runner.run(step)
        stated_s = self._line.seconds(done.positions)
        self._pacer.until(began_s + stated_s)
        ended_s = self._pacer.clock()
        (late_s,) = self._pacer.take_late_s()
        self._log.write(json.dumps([began_s, ended_s, done.positions, len(step.items), late_s]) + "\n")
        self._log.flush()
        return replace(done, computed=done.positions, pass_s=stated_s, host_s=late_s)

    def draft(self, step: DraftStep) -> Drafted:
        """Draft at the drafter's own pace."""
        return self._runner.draft(step)


def main(log: Path, line: PassCost, descriptor: int) -> None:
    """Be the engine's process."""

    def build(load: Load, report: Callable[[str], None]) -> tuple[Runner, Loaded] | LoadFailed:
        from edge_node.engine.assembly import assemble

        built = assemble(load, report)
        if isinstance(built, LoadFailed):
            return built
        runner, loaded = built
        return PacedRunner(runner, line, Pacer(), log.open("a")), loaded

    run_child(descriptor, build)


if __name__ == "__main__":
    main(Path(sys.argv[1]), PassCost(float(sys.argv[2]) / 1e3, float(sys.argv[3]) / 1e3), int(sys.argv[5]))
