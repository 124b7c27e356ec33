"""``edge_node serve`` whose padded streams have cells of one size, and no pace: for the padding bench alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from airdraft.core.cells import Padding
from airdraft.wire import server as module
from airdraft.wire.padding import PaddedAnswer
from edge_node.__main__ import main

if __name__ == "__main__":
    server: Any = module
    server.PaddedAnswer = partial(PaddedAnswer, padding=Padding(interval_s=0.0))
    main()
