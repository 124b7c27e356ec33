"""What a device asks for with ``--accept semantic``, and what it says of what it gets."""

from __future__ import annotations

from dataclasses import replace

from airdraft.core.drafting import Drafter, state_width_of
from airdraft.core.types import Granted, HiddenProtocol, Semantic, StateKind
from device_client.config import DeviceSettings

HIDDEN: dict[str, HiddenProtocol] = {
    "target-only": HiddenProtocol.TARGET_ONLY,
    "full-hidden": HiddenProtocol.FULL_HIDDEN,
    "mismatch-first": HiddenProtocol.MISMATCH_FIRST,
    "margin-first": HiddenProtocol.MARGIN_FIRST,
}
STATE_KINDS: dict[str, StateKind] = {"int8": StateKind.INT8, "fp8": StateKind.FP8}

_NEEDS_Q = ("kl-judge",)


def wish_of(settings: DeviceSettings) -> Semantic | None:
    """Return what the settings ask for, without the drafter's part; None is ``exact``."""
    if settings.accept == "exact":
        return None
    assert settings.max_quality_loss is not None, "the settings were checked"
    return Semantic(
        settings.max_quality_loss,
        settings.accept_rule,
        HIDDEN[settings.hidden],
        state_kind=STATE_KINDS[settings.state_kind],
    )


def settings_with(settings: DeviceSettings, wish: Semantic | None) -> DeviceSettings:
    """Return the settings with another wish, a journal's for instance, in place of their own."""
    accept: dict[str, object] = {"accept": "exact", "max_quality_loss": None}
    if wish is not None:
        accept = {
            "accept": "semantic",
            "max_quality_loss": wish.max_loss,
            "accept_rule": wish.rule,
            "hidden": _name(HIDDEN, wish.protocol),
            "state_kind": _name(STATE_KINDS, wish.state_kind),
        }
    return settings.model_copy(update=accept)


def _name(table: dict[str, HiddenProtocol] | dict[str, StateKind], value: HiddenProtocol | StateKind) -> str:
    return next(name for name, one in table.items() if one == value)


def asked_with(wish: Semantic | None, drafter: Drafter) -> Semantic | None:
    """Return the wish with what the drafter can do for it; a drafter without states leaves all to the target's.

    A drafter that can say what it chose from begins to, where the rule asks for it.
    """
    if wish is None:
        return None
    width, digest = state_width_of(drafter), getattr(drafter, "digest", None)
    if wish.rule in _NEEDS_Q and hasattr(drafter, "tells_q"):
        drafter.tells_q = True
    return replace(
        wish,
        protocol=wish.protocol if width else HiddenProtocol.TARGET_ONLY,
        drafter_digest=b"" if digest is None else digest(),
        state_width=width,
    )


def shortfall(wish: Semantic, granted: Granted) -> str:
    """Return a line that says what an edge grants less than the settings ask for; empty where it grants all."""
    because = f": {granted.reason}" if granted.reason else ""
    if not granted.max_loss:
        return f"nothing is accepted by meaning, the text is the target's own{because}"
    less = []
    if granted.max_loss < wish.max_loss:
        less.append(f"a quality loss of {granted.max_loss:g} at most, not {wish.max_loss:g}")
    if granted.protocol != wish.protocol:
        less.append(f"{_name(HIDDEN, granted.protocol)}, not {_name(HIDDEN, wish.protocol)}")
    if not less:
        return granted.reason
    return f"granted {' and '.join(less)}{because}"
