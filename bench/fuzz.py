"""``python -m bench fuzz``: hostile frames, a million in this process's own cores and 50,000 at a live edge over mTLS.

In process (``fuzz/``) a frame goes through decode, conversion and a session core: of an edge, with a stub engine behind
it that keeps its cache as ids, so that each committed token is compared with the target's own; or of a device. Two
processes share the work; a seed tells all of it. ``internal_errors`` are exceptions other than a refusal, and broken
promises (``fuzz.edge_core``, ``fuzz.device_core``); ``crashes`` are processes that ended. Live: ``bench.fuzz_live``.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from airdraft.core.types import RefusalCode
from bench import fuzz_live
from bench.figures import Result
from fuzz.edge_attack import Tally, attack_device, attack_edge

FRAMES, QUICK_FRAMES = 1_000_000, 40_000
LIVE_FRAMES, QUICK_LIVE_FRAMES = 50_000, 1_500
DEVICE_SHARE = 0.3  # of the frames, at devices' cores
PROCESSES = 2
BATCH = 10_000
SEED = 1
SHOWN = 5

BY_FRAMES = frozenset(RefusalCode) - {
    *(RefusalCode.RETRY_LATER, RefusalCode.DRAINING),  # the edge's own state
    *(RefusalCode.UNAUTHENTICATED, RefusalCode.FORBIDDEN),  # no frame's doing
}
"""Codes that frames alone can bring about; all of them must have been."""


def _batch(seed: int) -> tuple[str, Tally]:
    devices = seed % round(1 / DEVICE_SHARE) == 0
    return ("device", attack_device(BATCH, seed)) if devices else ("edge", attack_edge(BATCH, seed))


def in_process(frames: int) -> tuple[dict[str, Tally], int]:
    """Send so many frames at cores; return what became of them at either end, and how many processes died."""
    tallies = {"edge": Tally(), "device": Tally()}
    seed, crashes = SEED, 0
    while sum(tally.frames for tally in tallies.values()) < frames and not crashes:
        with ProcessPoolExecutor(PROCESSES) as pool:
            try:
                for end, tally in pool.map(_batch, range(seed, seed + 2 * PROCESSES)):
                    tallies[end].add(tally)
            except BrokenProcessPool:
                crashes += 1
        seed += 2 * PROCESSES
    return tallies, crashes


def run(*, quick: bool) -> Result:
    """Attack in process, then live; print what was found; return the figures."""
    began_s = time.monotonic()
    tallies, crashes = in_process(QUICK_FRAMES if quick else FRAMES)
    seconds = time.monotonic() - began_s
    live = asyncio.run(fuzz_live.attack(QUICK_LIVE_FRAMES if quick else LIVE_FRAMES, SEED))
    edge, device = tallies["edge"], tallies["device"]
    for end, tally in tallies.items():
        for place, what in list(tally.bugs.items())[:SHOWN]:
            print(f"{end}: {place}\n{what}")
    for bug in live.bugs[:SHOWN]:
        print(f"live: {bug}")
    refusals = edge.refusals + live.refusals
    for code, count in refusals.most_common():
        print(f"{code:<20} {count:>8}")
    missing = sorted(code.name for code in BY_FRAMES if not refusals[code.name])
    print(f"refusal codes that no frame brought about: {', '.join(missing) or 'none'}")
    print(f"live: {live.streams} streams, {dict(live.statuses)}, victims told to wait {live.waits} times")
    frames = edge.frames + device.frames
    result = Result("fuzz")
    result.figures = {
        "frames": frames,
        "frames_device": device.frames,
        "frames_s": round(frames / seconds, 1),
        "parsed_share": round((edge.parsed + device.parsed) / frames, 4),
        "crashes": crashes + live.crashes,
        "internal_errors": edge.internal_errors + device.internal_errors + len(live.bugs),
        "refusal_codes": len(BY_FRAMES) - len(missing),
        "refusal_codes_missing": len(missing),
        "live_frames": live.frames,
        "live_streams": live.streams,
        "live_s": round(live.seconds, 1),
        "victim_texts": live.texts,
        "victims_unchanged": round(live.unchanged / live.texts, 6) if live.texts else 0.0,
        "victim_waits": live.waits,
        "edge_rss_growth_mb": round(live.rss_growth_mb, 1),
    }
    result.samples = {"internal_errors": frames + live.frames, "victims_unchanged": live.texts}
    return result
