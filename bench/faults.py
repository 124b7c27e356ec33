"""``python -m bench faults``: thousands of random schedules of faults in virtual time, and bugs planted to be caught.

Each schedule is a world of real session cores under at least five faults that hit a text in the making, half of them
greedy, half at other temperatures; half of either with edges that run ahead, under every plan of a device
(``tests/link/faults_*``). A seeded generator draws them from the actions of the
fault machine, ``tests/link/test_fault_machine.py``; the run's ``seed`` makes them the same again. Schedules whose text
ended before its fifth fault are played too, but not counted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from bench.figures import Result
from tests.link.faults_planted import BUGS
from tests.link.faults_schedules import Schedule, draw, play, shrunk

LEAST_FAULTS = 5
PROCESSES = 2
SEEDS_A_RUN = 1_000_000  # how far apart the seeds of two runs are
SHOWN = 5
"""Failing schedules that are made short and printed; the others are counted."""


@dataclass(slots=True)
class Played:
    """What became of some schedules."""

    greedy: int = 0
    seeded: int = 0
    run_ahead: int = 0  # of both
    short: int = 0  # whose text ended before its fifth fault
    faults: Counter[str] = field(default_factory=Counter)  # by kind, of those that count
    failed: list[int] = field(default_factory=list)  # seeds
    slowest_finish_s: float = 0.0  # virtual seconds from the last fault to the end of the text

    @property
    def counted(self) -> int:
        """Return how many had their five faults."""
        return self.greedy + self.seeded

    def add(self, other: Played) -> None:
        """Take what another process found."""
        self.greedy += other.greedy
        self.seeded += other.seeded
        self.run_ahead += other.run_ahead
        self.short += other.short
        self.faults += other.faults
        self.failed += other.failed
        self.slowest_finish_s = max(self.slowest_finish_s, other.slowest_finish_s)


def _is_seeded(seed: int) -> bool:
    return bool(seed % 2)


def schedule_of(seed: int) -> Schedule:
    """Return the schedule of a seed; even ones are greedy."""
    return draw(seed, seeded=_is_seeded(seed))


def play_all(seeds: range) -> Played:
    """Play the schedules of these seeds."""
    played = Played()
    for seed in seeds:
        schedule = schedule_of(seed)
        outcome = play(schedule)
        if outcome.caught is not None:
            played.failed.append(seed)
        if sum(outcome.applied.values()) < LEAST_FAULTS:
            played.short += 1
            continue
        played.greedy += not _is_seeded(seed)
        played.seeded += _is_seeded(seed)
        played.run_ahead += schedule.setting.run_ahead
        played.faults += outcome.applied
        played.slowest_finish_s = max(played.slowest_finish_s, outcome.finish_s)
    return played


def tell(seed: int) -> None:
    """Print a failing schedule, made short."""
    caught = play(schedule_of(seed)).caught
    assert caught is not None
    schedule = shrunk(schedule_of(seed), caught.check)
    print(f"seed {seed}: {play(schedule).caught}\n  {schedule.setting}")
    for step in schedule.steps:
        print(f"  {step}")


def planted(index: int, most: int) -> tuple[str, bool, str]:
    """Plant a bug; return its name, whether a check that may catch it did, and a line that says so."""
    bug = BUGS[index]
    found = bug.caught(most)
    right = found is not None and found[1].check in bug.checks
    what = f"not in {most} schedules" if found is None else f"by '{found[1].check}' in schedule {found[0]}"
    return bug.name, right, f"{bug.name.replace('_', ' '):<55} {'caught' if right else 'MISSED'}: {what}"


def run(*, quick: bool, seed: int = 0) -> Result:
    """Play schedules until enough count, then plant the bugs; print both tables; return the figures."""
    wanted, batch = (200, 50) if quick else (6000, 250)
    first, total = seed * SEEDS_A_RUN, Played()
    with ProcessPoolExecutor(PROCESSES) as pool:
        while 2 * min(total.greedy, total.seeded) < wanted:
            starts = range(first, first + 4 * PROCESSES * batch, batch)
            for played in pool.map(play_all, [range(start, start + batch) for start in starts]):
                total.add(played)
            first = starts.stop
        bugs = list(pool.map(partial(planted, most=1000), range(len(BUGS))))
    for kind, count in total.faults.most_common():
        print(f"{kind:<20} {count:>8}")
    print(f"slowest end after the last fault: {total.slowest_finish_s:.1f} virtual seconds")
    for _, _, line in bugs:
        print(line)
    for failed in sorted(total.failed)[:SHOWN]:
        tell(failed)
    result = Result("faults")
    result.figures = {
        "schedules": total.counted,
        "schedules_seeded": total.seeded,
        "schedules_run_ahead": total.run_ahead,
        "schedules_too_short": total.short,
        "mismatches": len(total.failed),
        "faults_mean": round(total.faults.total() / total.counted, 3),
        "fault_kinds": len(total.faults),
        "finish_virtual_max_s": round(total.slowest_finish_s, 3),
        "planted": len(bugs),
        "planted_caught": sum(right for _, right, _ in bugs),
    }
    result.samples = {
        "mismatches": total.counted + total.short,
        "faults_mean": total.counted,
        "planted_caught": len(bugs),
    }
    return result


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    print(run(quick=chosen.quick, seed=chosen.seed).as_line(seed=chosen.seed))
