"""Task groups report failures in groups; callers want the one that tells what happened."""

from __future__ import annotations


def told(failures: BaseExceptionGroup[BaseException], *expected: type[BaseException]) -> BaseException:
    """Return one failure of a group: an expected condition before a bug that may have followed from it."""
    wanted, others = failures.split(expected) if expected else (None, failures)
    found: BaseException | None = wanted or others
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert found is not None
    return found
