"""Chat templates: the one place where jinja fills in a template that came with a model or from an edge.

A template is a program of somebody else's. This one reaches nothing but the values that it is given: jinja's sandbox,
without what its environment usually brings, and with few filters and methods. And it ends: all that it does is paid
for out of a budget, by the characters that it touches, before it is done.

Needs jinja2, which a plain device install lacks: import it where a template is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import loopcontrols
from jinja2.filters import FILTERS
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEMPLATE_CHARS = 1 << 16
MAX_TEXT_CHARS = 1 << 20
"""Of what is written, and of any text on the way to it."""

MAX_WORK_CHARS = 1 << 25
"""That all operations of one filling-in may touch together."""

STEP_CHARS = 256
"""What an operation costs beside what it touches: loops, calls and sums end after 131,072 together."""

ITEM_CHARS = 16
MAX_INT_BITS = 256
MAX_INDENT = 16

_PLAIN = {  # filters that look at a list's items and never write them
    *("count", "d", "default", "dictsort", "first", "items", "last", "length", "list", "map", "reject", "rejectattr"),
    *("reverse", "select", "selectattr", "sort", "unique"),
}
_TEXTUAL = {"capitalize", "e", "escape", "float", "int", "lower", "safe", "string", "title", "trim", "upper"}
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        [
            *(
                "capitalize",
                "count",
                "endswith",
                "find",
                "index",
                "isalnum",
                "isalpha",
                "isdigit",
                "islower",
                "isspace",
            ),
            *("isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"),
            *("rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title"),
            "upper",
        ]
    ),
    dict: frozenset(["get", "items", "keys", "values"]),
    list: frozenset(["count", "index"]),
    tuple: frozenset(["count", "index"]),
    int: frozenset(),
    float: frozenset(),
}
"""What of the plain types may be called; none of these makes more of its text than it has."""


class TemplateRefused(ValueError):
    """The template cannot be filled in; the text is one line that says why."""


class ChatTemplate:
    """One template, ready to be filled in; not by several threads at once."""

    def __init__(self, text: str) -> None:
        """Read a template. Raises TemplateRefused."""
        if len(text) > MAX_TEMPLATE_CHARS:
            raise TemplateRefused(f"it is longer than {MAX_TEMPLATE_CHARS} characters")
        self._environment = _Sandbox(len(text))
        try:
            self._template = self._environment.from_string(text)
        except Exception as error:  # a template is a program of its own
            raise _refused(error) from None

    def filled(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
        """Return the text of a conversation.

        values  further names that the template may use: JSON's types, nothing else

        Raises TemplateRefused.
        """
        budget = self._environment.budget = _Budget()
        parts: list[str] = []
        try:
            for part in self._template.generate(messages=messages, **values):
                budget.grows(len(part))
                parts.append(part)
        except Exception as error:
            raise _refused(error) from None
        return "".join(parts)


class _Budget:
    """What is left of the work that a template may do."""

    def __init__(self) -> None:
        self._left, self._room = MAX_WORK_CHARS, MAX_TEXT_CHARS

    def pay(self, chars: int, times: int = 1) -> None:
        """Pay for an operation that touches so many characters. Raises TemplateRefused."""
        self._left -= (STEP_CHARS + chars) * times
        if self._left < 0:
            raise TemplateRefused("it does more than any conversation needs")

    def text(self, chars: int) -> None:
        """Pay for a text of so many characters, before it is made. Raises TemplateRefused."""
        if chars > MAX_TEXT_CHARS:
            raise TemplateRefused(f"it makes a text of more than {MAX_TEXT_CHARS} characters")
        self.pay(chars)

    def grows(self, chars: int) -> None:
        """Let what is written grow by so many characters. Raises TemplateRefused."""
        self._room -= chars
        if self._room < 0:
            raise TemplateRefused(f"it writes more than {MAX_TEXT_CHARS} characters")

    def deep(self, value: Any) -> int:
        """Return how many characters a value has at most as text, paying for the look. Raises TemplateRefused."""
        chars, left = 0, [value]
        while left:
            one = left.pop()
            if isinstance(one, str):
                chars += 6 * len(one)  # \\u0000
            elif isinstance(one, dict):
                left += [part for pair in one.items() for part in pair]
            elif isinstance(one, list | tuple):
                left += one
            chars += ITEM_CHARS
            self._left -= ITEM_CHARS
            if chars > 6 * MAX_TEXT_CHARS or self._left < 0:
                raise TemplateRefused(f"it makes a text of more than {MAX_TEXT_CHARS} characters")
        return chars // 6


def _flat(value: Any) -> int:
    """Return what it costs to look at a value's items."""
    if isinstance(value, str):
        return len(value)
    return ITEM_CHARS * len(value) if isinstance(value, dict | list | tuple) else 0


class _Codes(CodeGenerator):
    """Writes the template's program, with ``~`` as what counts its work."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja's sandbox, smaller."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])
    code_generator_class = _Codes

    def __init__(self, template_chars: int) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=self._written)
        self.budget = _Budget()
        self._template_chars = template_chars
        self.filters = {name: self._paid(FILTERS[name], flat=True) for name in _PLAIN}
        self.filters |= {name: self._paid(FILTERS[name], flat=False) for name in _TEXTUAL}
        self.filters |= {
            "_counted": self._counted,
            "indent": self._indented,
            "join": self._joined,
            "replace": self._replaced,
            "tojson": self._json,
        }
        self.globals = {
            "dict": dict,
            "namespace": self.globals["namespace"],
            "raise_exception": _raise,
            "range": self._range,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Read a template, and let its loops be counted: by what a turn writes that is nobody's value."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            body = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = nodes.Filter(loop.iter, "_counted", [nodes.Const(body)], [], None, None)
        return tree

    # ---- what may be reached ----

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Say whether a template may have an attribute."""
        allowed = next((names for kind, names in _METHODS.items() if isinstance(obj, kind)), None)
        return super().is_safe_attribute(obj, attr, value) and (allowed is None or attr in allowed)

    def wrap_str_format(self, value: Any) -> None:
        """Give no way to formats: they name attributes, and widths."""
        return None  # noqa: RET501

    # ---- what it costs ----

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a method, a macro or a global of the template's."""
        given = (*args, *kwargs.values())
        __self.budget.pay(sum(map(_flat, given)))
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            __self.budget.pay(len(owner))
            if __obj.__name__ == "replace":
                return __self._replaced(owner, *args, **kwargs)
            if __obj.__name__ == "join" and len(args) == 1:
                return __self._joined(args[0], owner)
        elif isinstance(__obj, Macro):
            __self.budget.pay(__self._template_chars)
        elif isinstance(__obj, LoopContext):  # of a loop that is recursive
            __self.budget.pay(__self._template_chars, times=1 + sum(map(_flat, given)) // ITEM_CHARS)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work out a sum, a product, a power …"""
        self.budget.pay(0)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(1, right) if operator == "**" else 1) + right.bit_length()
            if bits > MAX_INT_BITS:
                raise TemplateRefused("it counts further than any conversation needs")
        elif operator == "+":
            self.budget.text(_flat(left) + _flat(right))
        elif operator == "*":
            times = next((one for one in (left, right) if isinstance(one, int)), 1)
            self.budget.text((_flat(left) + _flat(right)) * max(1, times))
        elif isinstance(left, str):
            raise TemplateRefused("it uses a format string")
        return super().call_binop(context, operator, left, right)

    def joined(self, parts: Iterable[Any]) -> str:
        """Return values one after the other: the operator ``~``."""
        parts = list(parts)
        self.budget.text(sum(map(self.budget.deep, parts)))
        return "".join(map(str, parts))

    def _written(self, value: Any) -> Any:
        self.budget.text(self.budget.deep(value))
        return value

    def _paid(self, act: Callable[..., Any], *, flat: bool) -> Callable[..., Any]:
        @wraps(act)  # with the mark that makes jinja pass its context
        def paid(*args: Any, **kwargs: Any) -> Any:
            weigh = _flat if flat else self.budget.deep
            self.budget.pay(sum(map(weigh, (*args, *kwargs.values()))))
            return act(*args, **kwargs)

        return paid

    def _counted(self, items: Iterable[Any], body_chars: int) -> Iterator[Any]:
        for item in items:
            self.budget.pay(body_chars)
            yield item

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.budget.pay(ITEM_CHARS, times=1 + max(0, (numbers.stop - numbers.start) // numbers.step))
        return numbers

    # ---- filters whose texts may be longer than what they are made of ----

    def _indented(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        if not (isinstance(width, int) and 0 <= width <= MAX_INDENT) and not (
            isinstance(width, str) and len(width) <= MAX_INDENT
        ):
            raise TemplateRefused(f"it indents by more than {MAX_INDENT}")
        self.budget.text(self.budget.deep(s) * (1 + MAX_INDENT))
        text: str = FILTERS["indent"](str(s), width, first, blank)
        return text

    def _joined(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        found = list(value)
        if attribute is not None:
            found = [self.getitem(item, attribute) for item in found]
        self.budget.text(sum(map(self.budget.deep, found)) + len(found) * self.budget.deep(d))
        return str(d).join(map(str, found))

    def _replaced(self, s: Any, old: str, new: str, count: int = -1) -> str:
        self.budget.pay(self.budget.deep([s, old, new]))
        text, old, new = str(s), str(old), str(new)
        times = text.count(old)
        self.budget.text(len(text) + (times if count is None or count < 0 else min(times, count)) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """Write JSON as transformers does for templates: nothing is escaped for HTML."""
        if indent is not None and not 0 <= indent <= MAX_INDENT:
            raise TemplateRefused(f"it indents by more than {MAX_INDENT}")
        self.budget.text(self.budget.deep(value) * (1 + (indent or 0)))
        write = partial(json.dumps, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
        return write(value, separators=None if separators is None else tuple(separators))


def _raise(message: Any) -> None:
    raise TemplateError(str(message)[:MAX_TEMPLATE_CHARS])


def _refused(error: Exception) -> TemplateRefused:
    return TemplateRefused(" ".join(str(error).split())[:200] or type(error).__name__)
