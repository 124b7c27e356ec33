"""Radio facts for machines: a line of JSON a reading."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import asdict

from device_client.radio.watching import watch


async def print_lines(source: str, every_s: float, count: int | None) -> int:
    """Print up to ``count`` readings, without what they do not know; return how many there were.

    Raises ValueError for a source that there is not.
    """
    printed = 0
    async with aclosing(watch(source, every_s)) as facts:
        async for one in facts:
            known = {name: value for name, value in asdict(one).items() if value is not None}
            print(json.dumps(known), flush=True)  # noqa: T201
            printed += 1
            if printed == count:
                break
    return printed
