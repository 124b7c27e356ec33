"""How a worked step may be worded: every choice of a slot is equally right, a style prefers one of each.

A slot is named (operation, part). Two styles that prefer different choices in a slot make two models disagree
there without either being wrong, which is what a semantic acceptance rule has to recognise.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

Slot = tuple[str, str]

PREFERENCE = 0.75  # chance that a style writes its preferred choice; otherwise any choice, uniformly

_SUM_FORMS = ("{a} + {b}", "{b} + {a}", "{a} plus {b}", "{b} plus {a}", "{a} and {b}", "{b} and {a}")
_SIGNS = ("=", "is", "makes", "equals", "gives")

CHOICES: Mapping[Slot, tuple[str, ...]] = {
    ("first", "marker"): ("First,", "To start,", "Step one:", "Begin:", "At first,"),
    ("next", "marker"): ("Then", "Next,", "After that,", "Now", "Later,"),
    ("last", "marker"): ("Finally,", "Last,", "In the end,", "Lastly,", "To finish,"),
    ("gain", "lead"): ("add", "the gain:", "more come,", "it grows:", "count up", "put together"),
    ("gain", "form"): _SUM_FORMS,
    ("gain", "sign"): _SIGNS,
    ("loss", "lead"): ("subtract", "the loss:", "some go,", "it shrinks:", "count down", "take away"),
    ("loss", "form"): ("{a} - {b}", "{a} minus {b}", "{a} less {b}", "{b} from {a}", "{b} off {a}"),
    ("loss", "sign"): ("=", "is", "leaves", "equals", "gives"),
    ("times", "lead"): ("multiply", "the product:", "groups of these,", "it repeats:", "work out"),
    ("times", "form"): ("{a} * {b}", "{b} * {a}", "{a} times {b}", "{b} times {a}", "{a} x {b}", "{b} x {a}"),
    ("times", "sign"): _SIGNS,
    ("total", "lead"): ("join both:", "the total:", "all together,", "both parts:", "sum up"),
    ("total", "form"): _SUM_FORMS,
    ("total", "sign"): _SIGNS,
    ("answer", "closing"): (
        "So {c} {unit}.",
        "That is {c} {unit}.",
        "It comes to {c} {unit}.",
        "We get {c} {unit}.",
        "Result: {c} {unit}.",
    ),
}

# The slots in which a drafter's style leaves the target's, the first ones first; an operand order is among them early
# because it makes harmless rejections of numbers, not only of words.
DIVERGENCE: tuple[Slot, ...] = (
    ("gain", "form"),
    ("next", "marker"),
    ("loss", "lead"),
    ("total", "form"),
    ("last", "marker"),
    ("gain", "sign"),
    ("loss", "form"),
    ("times", "form"),
    ("total", "sign"),
    ("first", "marker"),
    ("gain", "lead"),
    ("times", "sign"),
    ("loss", "sign"),
    ("total", "lead"),
    ("times", "lead"),
    ("answer", "closing"),
)


@dataclass(frozen=True, slots=True)
class Style:
    """A writer: the index of the preferred choice in every slot."""

    name: str
    preferred: Mapping[Slot, int]

    def choose(self, slot: Slot, rng: random.Random) -> str:
        """The wording of one slot: the preferred one with probability PREFERENCE, else a uniform draw."""
        choices = CHOICES[slot]
        if rng.random() < PREFERENCE:
            return choices[self.preferred[slot]]
        return rng.choice(choices)


TARGET_STYLE = Style("target", dict.fromkeys(CHOICES, 0))


def drafter_style(name: str, overlap: float) -> Style:
    """A style that prefers what the target prefers in the share `overlap` of the slots, and the next choice elsewhere.

    Of two such styles, the one with more overlap agrees with the target wherever the other does.
    """
    diverging = DIVERGENCE[: len(DIVERGENCE) - round(overlap * len(DIVERGENCE))]
    return Style(name, {slot: int(slot in diverging) for slot in CHOICES})
