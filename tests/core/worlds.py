"""Stub targets and drafters, and a pair of cores around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from airdraft.core.session import DeviceSession
from airdraft.core.types import Identity, Limits, Plan, Sampling
from airdraft.link.virtual_time import NextDraft, NextToken, VirtualPair

VOCABULARY = 50
IDENTITY = Identity(b"m" * 32, b"t" * 32)


def pseudo_target(path: Sequence[int]) -> int:
    """A next token that depends on every id of the path, so that a wrong cache row shows."""
    seed = blake2b(repr(tuple(path)).encode(), digest_size=4).digest()
    return int.from_bytes(seed, "little") % VOCABULARY


def noisy_draft(acceptance: float, salt: int = 0) -> NextDraft:
    """A drafter that agrees with ``pseudo_target`` on this share of paths."""

    def draft(path: Sequence[int]) -> int:
        seed = blake2b(repr((salt, tuple(path))).encode(), digest_size=4).digest()
        agrees = int.from_bytes(seed, "little") / 2**32 < acceptance
        right = pseudo_target(path)
        return right if agrees else (right + 1) % VOCABULARY

    return draft


def alone(
    prompt: Sequence[int], max_tokens: int, stop_ids: Sequence[int] = (), target: NextToken = pseudo_target
) -> list[int]:
    """The text that the target writes by itself: the oracle of every test."""
    ids = list(prompt)
    while len(ids) < len(prompt) + max_tokens:
        ids.append(target(ids))
        if ids[-1] in stop_ids:
            break
    return ids


def make_device(
    prompt: Sequence[int] = (1, 2, 3),
    *,
    draft_length: int = 4,
    outstanding: int = 1,
    max_tokens: int = 40,
    stop_ids: tuple[int, ...] = (),
    limits: Limits | None = None,
) -> DeviceSession:
    """A device session with the test identity."""
    return DeviceSession(
        b"s" * 16,
        IDENTITY,
        prompt,
        sampling=Sampling(),
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        limits=limits or Limits(context_tokens=4096),
        plan=Plan(draft_length, outstanding),
    )


def make_pair(
    device: DeviceSession | None = None,
    *,
    draft: NextDraft | float = 0.7,
    target: NextToken = pseudo_target,
    limits: Limits | None = None,
    **world: Any,
) -> VirtualPair:
    """Both ends and a link; ``draft`` is a drafter or the acceptance of one."""
    limits = limits or Limits(context_tokens=4096)
    drafter: Callable[[Sequence[int]], int | None] = noisy_draft(draft) if isinstance(draft, float) else draft
    return VirtualPair(device or make_device(limits=limits), target, drafter, limits, **world)
