"""Deterministic arithmetic word problems with worked solutions: document i depends on (split, i, style) alone.

All values lie in 1..60. Train and held-out problems never share kind and numbers: a digest of these decides the split.
"""

import hashlib
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.phrasing import TARGET_STYLE, Style

Split = Literal["train", "held-out"]

END = "<|end|>"
MAX_VALUE = 60
HELD_OUT_SHARE = 16  # one key in so many belongs to the held-out split

CORPUS_DOCUMENTS = 2000
CORPUS_SHA256 = "7acc6ba78a76fcd9d175686d84aaafb4ff31a3c42b77e1efcbe413a205ee2ebb"

# fmt: off
_NAMES = (
    "Mia", "Tom", "Ana", "Ben", "Leo", "Eva", "Sam", "Zoe", "Max", "Ida", "Ned", "Ivy", "Gus", "Amy", "Kai", "Lea",
    "Rob", "Uma", "Dan", "Fay", "Hal", "Joy", "Ron", "Una", "Vic", "Wes", "Kim", "Jon", "Liz", "Pam",
)
_THINGS = (
    "pear", "pen", "book", "card", "shell", "coin", "stamp", "cookie", "plum", "melon", "marble", "ball", "flower",
    "candle", "button", "ticket", "sticker", "lemon", "muffin", "pencil",
)
_HOLDERS = (
    "box", "bag", "tray", "jar", "pack",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Step:
    """One calculation of a solution: left (+, - or *) right = result."""

    operation: Literal["gain", "loss", "times", "total"]
    left: int
    right: int

    @property
    def result(self) -> int:
        if self.operation == "times":
            return self.left * self.right
        return self.left - self.right if self.operation == "loss" else self.left + self.right


@dataclass(frozen=True, slots=True)
class Plan:
    """A problem before its solution is worded."""

    kind: str
    question: str
    steps: tuple[Step, ...]
    unit: str

    @property
    def key(self) -> str:
        """What decides the split: the kind and the numbers, not the wording."""
        return f"{self.kind} " + " ".join(f"{s.operation} {s.left} {s.right}" for s in self.steps)

    @property
    def in_range(self) -> bool:
        return all(1 <= value <= MAX_VALUE for s in self.steps for value in (s.left, s.right, s.result))


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked solution without the `####` line, and the answer."""

    question: str
    solution: str
    answer: int

    @property
    def prompt(self) -> str:
        return f"{self.question}\n"

    @property
    def completion(self) -> str:
        return f"{self.solution}\n#### {self.answer}{END}"


def _gain(rng: random.Random, name: str, other: str, value: int) -> tuple[str, Step]:
    n = rng.randint(2, 30)
    sentence = rng.choice((f"{name} buys {n} more.", f"{other} gives {name} {n} more.", f"{name} finds {n} more."))
    return sentence, Step("gain", value, n)


def _loss(rng: random.Random, name: str, other: str, value: int) -> tuple[str, Step]:
    n = rng.randint(2, 30)
    sentence = rng.choice((f"{name} gives {n} to {other}.", f"{name} loses {n}.", f"{name} sells {n}."))
    return sentence, Step("loss", value, n)


def _times(rng: random.Random, name: str, other: str, value: int) -> tuple[str, Step]:
    n = rng.randint(2, 4)
    word = {2: "twice", 3: "three times", 4: "four times"}[n]
    sentence = rng.choice((f"Soon {name} has {word} as many.", f"{other} helps and makes it {word} as many."))
    return sentence, Step("times", value, n)


_EVENTS: tuple[Callable[[random.Random, str, str, int], tuple[str, Step]], ...] = (_gain, _gain, _loss, _loss, _times)


def _chain(rng: random.Random) -> Plan:
    """Somebody's stock after two or three events."""
    (name, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    value = rng.randint(3, 50)
    sentences = [rng.choice((f"{name} has {value} {thing}s.", f"{name} starts with {value} {thing}s."))]
    steps = []
    for _ in range(rng.choice((2, 2, 3))):
        sentence, step = rng.choice(_EVENTS)(rng, name, other, value)
        sentences.append(sentence)
        steps.append(step)
        value = step.result
    sentences.append(rng.choice((f"How many {thing}s does {name} have now?", f"How many {thing}s are left?")))
    return Plan("chain", " ".join(sentences), tuple(steps), f"{thing}s")


def _shop(rng: random.Random) -> Plan:
    """What two kinds of goods cost together."""
    name, (one, two) = rng.choice(_NAMES), rng.sample(_THINGS, 2)
    price, other_price = rng.randint(2, 9), rng.randint(2, 9)
    count, other_count = rng.randint(2, 9), rng.randint(2, 9)
    steps = (Step("times", count, price), Step("times", other_count, other_price))
    prices = rng.choice(
        (
            f"A {one} costs {price} dollars and a {two} costs {other_price} dollars.",
            f"The price of a {one} is {price} dollars. The price of a {two} is {other_price} dollars.",
        )
    )
    question = f"{prices} {name} buys {count} {one}s and {other_count} {two}s. How many dollars does {name} pay?"
    return Plan("shop", question, (*steps, Step("total", steps[0].result, steps[1].result)), "dollars")


def _holders(rng: random.Random) -> Plan:
    """A stock in equal boxes, then one event."""
    (name, other), thing, holder = rng.sample(_NAMES, 2), rng.choice(_THINGS), rng.choice(_HOLDERS)
    plural = "boxes" if holder == "box" else f"{holder}s"
    count, each = rng.randint(2, 9), rng.randint(2, 9)
    filled = Step("times", count, each)
    sentence, step = rng.choice((_gain, _loss))(rng, name, other, filled.result)
    question = (
        f"{name} has {count} {plural} with {each} {thing}s in each {holder}. {sentence} "
        f"How many {thing}s does {name} have now?"
    )
    return Plan("holders", question, (filled, step), f"{thing}s")


def _compare(rng: random.Random) -> Plan:
    """Two people's stock together, the second told by its difference to the first."""
    (name, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    value, n = rng.randint(3, 40), rng.randint(2, 20)
    operation: Literal["gain", "loss"] = rng.choice(("gain", "loss"))
    word = "more" if operation == "gain" else "fewer"
    second = Step(operation, value, n)
    question = (
        f"{name} has {value} {thing}s. {other} has {n} {word} than {name}. How many {thing}s do they have together?"
    )
    return Plan("compare", question, (second, Step("total", value, second.result)), f"{thing}s")


KINDS = (_chain, _chain, _shop, _holders, _compare)


def is_held_out(key: str) -> bool:
    """Whether a problem with this key belongs to the held-out split."""
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def plan(split: Split, index: int) -> Plan:
    """What problem `index` of a split asks and how it is solved, in no style yet."""
    rng = random.Random(f"{split} {index}")
    kind = rng.choice(KINDS)
    while True:
        drawn = kind(rng)
        if drawn.in_range and is_held_out(drawn.key) == (split == "held-out"):
            return drawn


def _worded(plan: Plan, style: Style, rng: random.Random) -> str:
    sentences = []
    for number, step in enumerate(plan.steps):
        position = "first" if number == 0 else "last" if number == len(plan.steps) - 1 else "next"
        marker, lead, form, sign = (
            style.choose(slot, rng)
            for slot in ((position, "marker"), *((step.operation, part) for part in ("lead", "form", "sign")))
        )
        sentences.append(f"{marker} {lead} {form.format(a=step.left, b=step.right)} {sign} {step.result}.")
    closing = style.choose(("answer", "closing"), rng)
    return " ".join((*sentences, closing.format(c=plan.steps[-1].result, unit=plan.unit)))


def word_problem(split: Split, index: int, style: Style = TARGET_STYLE) -> Problem:
    """Problem `index` of a split; the question is the same in every style."""
    drawn = plan(split, index)
    solution = _worded(drawn, style, random.Random(f"{split} {index} {style.name}"))
    return Problem(drawn.question, solution, drawn.steps[-1].result)


def drill(index: int, style: Style = TARGET_STYLE) -> Problem:
    """Bare facts in a row, for training only: they teach the tables at a few tokens a fact."""
    rng = random.Random(f"drill {index} {style.name}")
    steps: list[Step] = []
    while len(steps) < 4:
        operation: Literal["gain", "loss", "times"] = rng.choice(("gain", "loss", "times"))
        largest = 12 if operation == "times" else MAX_VALUE
        step = Step(operation, rng.randint(1, largest), rng.randint(1, largest))
        if 1 <= step.result <= MAX_VALUE:
            steps.append(step)
    forms = [style.choose((step.operation, "form"), rng).format(a=step.left, b=step.right) for step in steps]
    signs = [style.choose((step.operation, "sign"), rng) for step in steps]
    facts = " ".join(f"{form} {sign} {step.result}." for form, sign, step in zip(forms, signs, steps, strict=True))
    return Problem(f"Work out {', '.join(forms)}.", facts, steps[-1].result)


_ANSWER = re.compile(r"#### (\d+)")


def check_answer(text: str) -> int | None:
    """The number after the first `####` of a completion, or None where there is none."""
    found = _ANSWER.search(text)
    return int(found.group(1)) if found else None


def corpus_sha256(style: Style = TARGET_STYLE) -> str:
    """A digest of the first documents of both splits and of the drills, to notice any change of the generator."""
    digest = hashlib.sha256()
    for index in range(CORPUS_DOCUMENTS):
        documents = (word_problem("train", index, style), word_problem("held-out", index, style), drill(index, style))
        digest.update("".join(d.prompt + d.completion for d in documents).encode())
    return digest.hexdigest()
