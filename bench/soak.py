"""``python -m bench soak``: edge nodes and devices as processes, while all between and under them fails at random.

Every device writes texts that are known beforehand (``bench.stub_model``) over relays of its own; relays, edges and
devices fail by the dice of a seed. What is journalled, printed and reported is compared with the known text as it
comes: not one token may differ, be taken back, or be shown before it is journalled, and no device may give up early.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGTERM

from bench.figures import Result
from bench.soak_devices import EXCUSES, Device
from bench.soak_faults import Storm
from bench.soak_processes import Edge, Log, Record, road
from bench.stub_model import CONTEXT, known_texts, write_stubs

_AFTERMATH_S = 1.0  # a fault may take so long to be felt
WRONG = ("mismatches", "exit_faults", "edge_faults", "tracebacks")
"""Figures that must be 0."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of everything."""

    seconds: float  # in which faults begin
    devices: int = 5
    texts: int = 8
    tokens: int = 1300  # of the longest answer
    pause_s: float = 1.0  # between faults, on average
    long_outage_s: float = 30.0


async def _soak(extent: Extent, seed: int, folder: Path, record: Record) -> None:
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(SIGTERM, current.cancel)
    asyncio.get_running_loop().set_exception_handler(record.failed_callback)
    target, drafter = await asyncio.to_thread(write_stubs, folder)
    edges = _edges(extent, target, folder, record)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as serving:
        roads = [
            await stack.enter_async_context(road(device, edge, Random(f"{seed} {device} {edge.index}")))
            for device in (None, *range(extent.devices))
            for edge in edges
        ]
        for edge, back in zip(edges, reversed(roads[: len(edges)]), strict=True):
            edge.options += ["--drain-to", back.relay.address]
        tasks = [serving.create_task(edge.run()) for edge in edges]
        texts = await asyncio.to_thread(known_texts, extent.texts, extent.tokens, Random(seed))
        for edge in edges:
            await edge.listening.wait()
        devices = [
            Device(index, folder, drafter, [way for way in roads if way.device == index], record)
            for index in range(extent.devices)
        ]
        storm = Storm(edges, devices, roads, record, Random(seed))
        until_s = record.now_s + extent.seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(storm.run(extent.pause_s, extent.long_outage_s, until_s))
            for device in devices:
                group.create_task(device.run(texts, until_s, Random(f"{seed} {device.index}")))
        for task in tasks:
            task.cancel()


def _edges(extent: Extent, target: Path, folder: Path, record: Record) -> list[Edge]:
    """Return two that differ: one forgets and evicts soon, the other has few places and trusts receipts alone."""
    key = folder / "receipt.key"
    key.write_bytes(os.urandom(32))
    common = ("--model", str(target), "--max-context", str(CONTEXT), "--drain-seconds", "4", "--receipt-key", str(key))
    return [
        Edge(0, folder, record, [*common, "--kv-tokens", str(2 * CONTEXT), "--resume-seconds", "2"]),
        Edge(1, folder, record, [*common, "--own-text-only", "--max-sessions", str(max(2, extent.devices - 2))]),
    ]


def _complaints(folder: Path, record: Record) -> None:
    """Count logs that hold a traceback, and show them."""
    for path in sorted(folder.glob("*.log")):
        if "Traceback" in path.read_text():
            record.counts["tracebacks"] += 1
            print(f"\n{path.name}:\n{Log(path, record).tail(40)}", flush=True)
    faults = (f"{fault.since_s:9.3f} to {fault.until_s:7.3f} {fault.kind} {fault.detail}" for fault in record.faults)
    (folder / "faults").write_text("\n".join(faults))


def _result(record: Record) -> Result:
    result = Result("soak", {"faults": len(record.faults)})
    counts = record.counts
    for name in ("generations", "tokens", *EXCUSES, "relay_errors", *WRONG, "near_ties"):
        result.figures[name] = counts[name]
    for kind, count in sorted(Counter(fault.kind for fault in record.faults).items()):
        result.figures[f"faults_{kind}"] = count
    unexplained, recoveries = [0.0], [0.0]
    for silent_s, device, ended_s in record.gaps:
        faults = record.hitting(device, ended_s - silent_s - _AFTERMATH_S, ended_s)
        if faults:
            recoveries.append(min(silent_s, ended_s - max(min(fault.until_s, ended_s) for fault in faults)))
        else:
            unexplained.append(silent_s)
    result.figures |= {"worst_gap_s": round(max(unexplained), 3), "slowest_recovery_s": round(max(recoveries), 3)}
    result.samples = {"worst_gap_s": len(unexplained) - 1, "slowest_recovery_s": len(recoveries) - 1}
    result.samples |= dict.fromkeys(WRONG, counts["generations"])
    return result


def failed(result: Result) -> bool:
    """Say whether something was found that must never be."""
    return any(result.figures[name] for name in WRONG)


def run(extent: Extent, seed: int) -> Result:
    """Soak; print what is wrong as it is found, with all that is needed to look into it; return the figures.

    What the processes wrote is kept where something was wrong.
    """
    record = Record()
    folder = Path(tempfile.mkdtemp(prefix="airdraft-soak-"))
    print(f"soak: seed {seed}, {extent.seconds:.0f} s, {extent.devices} devices, 2 edges", flush=True)
    try:
        asyncio.run(_soak(extent, seed, folder, record))
        _complaints(folder, record)
    except BaseException:
        print(f"\nsoak: seed {seed}; journals and logs are kept in {folder}", flush=True)
        raise
    result = _result(record)
    if failed(result):
        print(f"\nsoak: seed {seed}; journals and logs are kept in {folder}", flush=True)
    else:
        shutil.rmtree(folder)
    return result
