"""What stands by meaning in worlds under faults: a judge that accepts a pseudo-random part of the misses, by path.

The head's target part and the drafter's state of a token both belong to its path, as the cache has it. So a verdict
that was made for another path, or with another token's state, lets something stand that the oracle does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from airdraft.core.meaning import RULES, HeadTail, MeaningJudge, RiskTable
from airdraft.core.types import Evidence, Granted, HiddenProtocol, Open, Semantic
from tests.core.worlds import VOCABULARY

PROTOCOLS: dict[str, HiddenProtocol] = {
    "target-only": HiddenProtocol.TARGET_ONLY,
    "full-hidden": HiddenProtocol.FULL_HIDDEN,
    "mismatch-first": HiddenProtocol.MISMATCH_FIRST,
    "margin-first": HiddenProtocol.MARGIN_FIRST,
}
CAP = 0.01
STATE_WIDTH = 3
_RISK = 1e-3  # of what stands

Path = Sequence[int]


def share(salt: bytes, path: Path) -> float:
    """Return a number in [0, 1) that belongs to a path."""
    noise = blake2b(repr(tuple(path)).encode(), digest_size=4, salt=salt).digest()
    return int.from_bytes(noise, "little") / 2**32


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a session asks for, and what would be right of that."""

    protocol: str  # of PROTOCOLS
    harmless: float  # share of the paths on which another wording is as good
    stateless: float = 0.0  # share of the paths whose state is no number
    strictness: float = 1.0  # 0: what an audit makes of a head that errs, and nothing stands

    @property
    def asked(self) -> Semantic:
        """Return what the device asks for."""
        width = 0 if self.protocol == "target-only" else STATE_WIDTH
        return Semantic(CAP, "head", PROTOCOLS[self.protocol], bytes(32) if width else b"", width)

    # ---- what belongs to a path, which ends with the drafted token ----

    def _class(self, path: Path) -> float:
        return -1.0 if share(b"good", path) < self.harmless else 1.0

    def _mask(self, path: Path) -> float:
        """Return what a head that reads states has to add to know the class."""
        return 0.0 if self.protocol == "target-only" else 8.0 * round(share(b"mask", path))

    def state(self, path: Path) -> NDArray[np.float32]:
        """Return the drafter's state of the token at the end of a path, [STATE_WIDTH]."""
        if share(b"none", path) < self.stateless:
            return np.full(STATE_WIDTH, np.inf, np.float32)
        return np.array([self._mask(path), 1.0, -1.0], np.float32)

    def evidence(self, node: int, path: Path) -> Evidence:
        """Return what the target tells of it."""
        return Evidence(node, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0, partial=(self._class(path) - self._mask(path),))

    def may_stand(self, path: Path) -> bool:
        """Say whether the token at the end of a path is as good as the target's own there."""
        if self.strictness <= 0 or self._class(path) > 0:
            return False
        return self.protocol == "target-only" or share(b"none", path) >= self.stateless

    # ---- the edge ----

    def grant(self, opened: Open) -> tuple[Granted, MeaningJudge | None]:
        """Return what an edge grants, and who judges."""
        asked = opened.semantic
        if asked is None:
            return Granted(), None
        grant = Granted(asked.max_loss, asked.rule, asked.protocol)
        stops = frozenset(opened.stop_ids)
        strictness: Callable[[], float] = lambda: self.strictness  # noqa: E731 (typed)
        judge = MeaningJudge(
            grant, RULES["head"], self._head(), vocabulary=VOCABULARY, control_ids=stops, strictness=strictness
        )
        return grant, judge

    def _head(self) -> HeadTail:
        reads = self.protocol != "target-only"
        return HeadTail(
            name="by path",
            features="draft+target" if reads else "target-only",
            bias=np.zeros(1, np.float32),
            out=np.ones(1, np.float32),
            out_bias=0.0,
            calibration_x=np.array(
                [-1.5, -0.5, 0.5]
            ),  # -1 stands and 1 does not; with another token's state it may be -7
            calibration_y=np.array([_RISK, _RISK, 1.0]),
            table=RiskTable(np.array([2 * _RISK]), np.array([CAP]), np.array([CAP])),
            draft=np.array([[1.0, 0.0, 0.0]], np.float32) if reads else None,
        )
