"""Templates are filled in, and a hostile one neither gets out of its sandbox nor keeps it busy."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airdraft.chat_template import MAX_TEMPLATE_CHARS, MAX_TEXT_CHARS, ChatTemplate, TemplateRefused
from tests.test_source_rules import PRODUCT, REPOSITORY

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4", "tool_calls": [{"function": {"name": "add", "arguments": {"é": 1}}}]},
    {"role": "user", "content": [{"type": "text", "text": "<b>Sure?</b>"}]},
]


def filled(template: str, **values: Any) -> str:
    return ChatTemplate(template).filled(MESSAGES, **values)


def told(template: str) -> str:
    """Return what whoever fills a template in gets to see."""
    try:
        return filled(template)
    except TemplateRefused as error:
        return str(error)


# ---- what templates do ----

USUAL = {
    "roles and contents": (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ m['content'] | trim if m.content is string else '…' }}\n{% endfor %}",
        "<|system|>Be brief.\n<|user|>What is 2 + 2?\n<|assistant|>4\n<|user|>…\n",
    ),
    "the first message apart": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}"
        "{% endif %}{% for m in rest %}{{ loop.index0 ~ ':' ~ m['role'] }}{{ ',' if not loop.last }}{% endfor %}",
        "0:user,1:assistant,2:user",
    ),
    "a namespace that a loop sets": (
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last + 1 }}",
        "4",
    ),
    "messages backwards": (
        "{% for m in messages[::-1] %}{% if m.role == 'user' %}{{ loop.index }}{% break %}{% endif %}{% endfor %}",
        "1",
    ),
    "a macro for parts": (
        "{% macro text(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}{{ p.text }}{% endfor %}{% endif %}"
        "{% endmacro %}{{ text(messages[3].content) }}",
        "<b>Sure?</b>",
    ),
    "tools as JSON": (
        "{{ messages[2].tool_calls[0].function | tojson }}",
        '{"name": "add", "arguments": {"é": 1}}',
    ),
    "tools as indented JSON": (
        "{{ messages[2].tool_calls[0].function.arguments | tojson(indent=4) }}",
        '{\n    "é": 1\n}',
    ),
    "arguments by name": (
        "{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
        "é=1",
    ),
    "methods of texts": (
        "{{ 'a</think>b'.split('</think>')[-1].strip() }}{{ 'x-y'.replace('-', '+') }}{{ ', '.join(['1', '2']) }}",
        "bx+y1, 2",
    ),
    "filters": (
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | map(attribute='role') | "
        "join('/') }}{{ 'A' | lower }}{{ missing | default('none') }}",
        "2system/user/assistant/usera" + "none",
    ),
    "what was given": ("{{ bos_token }}{% if add_generation_prompt %}<|assistant|>{% endif %}", "<s><|assistant|>"),
    "a range": ("{% for i in range(3) %}{{ i * 2 }}{% endfor %}{{ '-' * 3 }}", "024---"),
}


@pytest.mark.parametrize("name", USUAL)
def test_what_templates_do_is_done(name: str) -> None:
    template, text = USUAL[name]
    assert filled(template, bos_token="<s>", add_generation_prompt=True) == text


def test_a_template_is_filled_in_again_and_again() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content * 1000 }}{% endfor %}")
    long = [{"role": "user", "content": "x" * 900}]
    for _ in range(50):  # each with a budget of its own
        assert len(template.filled(long)) == 900_000


def test_a_long_conversation_fits() -> None:
    template = USUAL["roles and contents"][0] + "{{ messages | tojson }}"
    messages = [{"role": "user", "content": "w " * 500}] * 400
    assert len(ChatTemplate(template).filled(messages)) > 700_000


# ---- ways out ----

WAYS_OUT = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f')|attr('\\x5f\\x5fmro\\x5f\\x5f') }}",
    "{{ messages|map(attribute='__class__')|list|first }}.{{ (messages|map(attribute='__class__')|first).__mro__ }}",
    "{{ (messages|map('attr', '__class__')|first) }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__class__}'.format_map({'0': ''}) }}",
    "{{ ''.format.__globals__ }}",
    "{{ '%s' | format(''.__class__) }}",
    "{{ '%(x)s' % {'x': 1} }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ range.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ self._TemplateReference__context.eval_ctx.environment.budget }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% for m in messages %}{{ loop._iterator.gi_frame.f_globals }}{% endfor %}",
    "{{ (messages|map('upper')).gi_frame.f_back }}",
    "{{ (messages|map('upper')).gi_code }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{{ environment.filters }}",
    "{{ budget._left }}",
    "{{ context.environment }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ missing.__class__.__init__.__globals__ }}",
    "{{ 'a'.encode('utf-16') }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{{ 1 .__class__ }}",
    "{{ (1).to_bytes(100, 'big') }}",
    "{% do messages.append(1) %}",
    "{% debug %}",
    "{% trans %}x{% endtrans %}",
]
SECRETS = ("subclasses", "built-in", "<function", "<class", "root:", "os.", "module", "<frame", "<code", "uid=")


@pytest.mark.parametrize("template", WAYS_OUT)
def test_no_way_leads_out(template: str) -> None:
    before = [dict(message) for message in MESSAGES]
    text = told(template)
    assert not any(secret in text for secret in SECRETS), text
    assert "\n" not in text
    assert len(text) < 200
    assert before == MESSAGES


# ---- work without end ----

DOUBLING = "{% set ns = namespace(s='ab', l=[1, 2]) %}{% for i in range(60) %}STEP{% endfor %}"
ENDLESS = {
    "a long product": "{{ 'a' * 10**9 }}",
    "a long product of lists": "{{ [0] * 10**9 }}",
    "a long product the other way": "{{ 10**9 * 'a' }}",
    "a product of products": "{{ ('a' * 10**6) * 10**6 }}",
    "a great power": "{{ 10 ** 10 ** 10 }}",
    "a power by products": "{% set n = namespace(n=9) %}{% for i in range(99) %}{% set n.n = n.n * n.n %}{% endfor %}",
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "a long range made a list": "{{ range(10**9) | list | length }}",
    "ranges in ranges": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "ranges in ranges that write": "{% for a in range(999) %}{% for b in range(999) %}xxxxxxxx{% endfor %}{% endfor %}",
    "many loops over a long text": "{% set s = 'a' * 10**6 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "doubling by a sum": DOUBLING.replace("STEP", "{% set ns.s = ns.s + ns.s %}"),
    "doubling by joining": DOUBLING.replace("STEP", "{% set ns.s = ns.s ~ ns.s %}"),
    "doubling a list": DOUBLING.replace("STEP", "{% set ns.l = ns.l + ns.l %}"),
    "doubling by a list of lists": DOUBLING.replace("STEP", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
    "the same as JSON": DOUBLING.replace("STEP", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson }}",
    "the same as a text": DOUBLING.replace("STEP", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | string | length }}",
    "doubling by a block": DOUBLING.replace("STEP", "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
    "doubling by a filter": DOUBLING.replace("STEP", "{% set ns.s = [ns.s, ns.s] | join %}"),
    "doubling by a method": DOUBLING.replace("STEP", "{% set ns.s = ns.s.join([ns.s, ns.s]) %}"),
    "doubling by replacing": DOUBLING.replace("STEP", "{% set ns.s = ns.s.replace('a', ns.s) %}"),
    "replacing by a filter": DOUBLING.replace("STEP", "{% set ns.s = ns.s | replace('a', ns.s) %}"),
    "replacing nothing": "{{ ('a' * 10**6) | replace('', 'b' * 10**6) }}",
    "a wide field": "{{ 'a'.center(10**9) }}",
    "a wide field on the left": "{{ 'a'.ljust(10**9) }}",
    "a field of zeros": "{{ '1'.zfill(10**9) }}",
    "wide tabs": "{{ '\\t'.expandtabs(10**9) }}",
    "a wide field by a filter": "{{ 'a' | center(10**9) }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide format by a method": "{{ '{:1000000000}'.format(1) }}",
    "a wide format by a filter": "{{ '%1000000000d' | format(1) }}",
    "wide JSON": "{{ [1] | tojson(indent=10**9) }}",
    "wide lines": "{{ 'a\\nb' | indent(10**9) }}",
    "a long batch": "{{ [1] | batch(10**9, 0) | list }}",
    "many slices": "{{ [1] | slice(10**9) | list }}",
    "a precise number": "{{ 1 | round(10**9, 'ceil') }}",
    "a long sum": "{{ ([[1]] * 10**5) | sum(start=[]) }}",
    "much of nothing": "{{ lipsum(10**9) }}",
    "calls without end": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "calls that double": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a loop that calls itself": ("{% for a in [1] recursive %}{{ loop([a, a]) if loop.depth < 60 }}{% endfor %}"),
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "terms": "{{ " + "+".join(["1"] * 20000) + " }}",
    "blocks in blocks": "{% for i in [1] %}" * 60 + "{% endfor %}" * 60,
    "a long template": "x" * (MAX_TEMPLATE_CHARS + 1),
    "a long text": "{% for i in range(17) %}{{ '" + "x" * 64000 + "' }}{% endfor %}",
    "the same values": "{{ [" + "messages," * 5000 + "] | tojson | length }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_work_without_end_is_refused(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateRefused) as refused:
        filled(ENDLESS[name])
    assert "\n" not in str(refused.value)
    assert str(refused.value)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 256 << 10


def test_what_is_written_ends() -> None:
    assert len(filled("{% for i in range(16) %}{{ '" + "x" * 60000 + "' }}{% endfor %}")) == 960_000 < MAX_TEXT_CHARS


@pytest.mark.parametrize(
    "template", ["{{", "{% for %}", "{% endif %}", "{{ 1 | nofilter }}", "{{ messages[9].role.x }}"]
)
def test_what_is_no_template_is_refused_in_one_line(template: str) -> None:
    with pytest.raises(TemplateRefused) as refused:
        filled(template)
    assert "\n" not in str(refused.value)


def test_its_own_refusal_is_told() -> None:
    with pytest.raises(TemplateRefused, match=r"^roles must alternate$"):
        filled("{{ raise_exception('roles must\nalternate') }}")


# ---- one place ----


def test_jinja_is_used_in_one_place() -> None:
    users = set()
    for folder in PRODUCT:
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.partition(".")[0] == "jinja2" for name in names):
                    users.add(path.relative_to(REPOSITORY))
    assert users == {Path("airdraft/chat_template.py")}


def test_a_device_that_fills_in_nothing_imports_no_jinja() -> None:
    code = "import sys, device_client.__main__, device_client.generate; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
