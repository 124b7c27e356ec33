"""What no source of this repository may do: read pickles, run text, or start a shell.

A pickle is a program that its reader runs, and so is what ``eval``, ``exec`` and a shell are given. Weights, labels,
journals, logs and messages here are safetensors, JSON, msgpack, protobuf and plain arrays.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PRODUCT = ("airdraft", "edge_node", "device_client", "coordinator")
SOURCES = (*PRODUCT, "bench", "models", "tests", "fuzz")

PICKLES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "zodbpickle"),
    *("pickletools", "torch.hub", "torch.package", "pandas.read_pickle", "multiprocessing.reduction"),
}
"""Modules, and what is like one, whose readers run what they read."""

PROCESSES = {"multiprocessing", "concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process"}
"""What carries objects between processes as pickles, without a word of them."""

MAY_START_PROCESSES = {
    "bench/faults.py": "spreads its own trials over cores",
    "bench/fuzz.py": "spreads its own frames over cores",
    "bench/queue.py": "its model runs apart; between the two are events and a count",
    "bench/queue_ends.py": "a pipe of multiprocessing is one of the ways that it compares",
    "bench/radio_least.py": "spreads its own simulations over cores",
    "bench/semantic_work.py": "spreads its own measurements over cores",
}
"""Measuring programs that hand work to processes which they start themselves; nobody else's bytes reach those."""

CALLS = {
    "eval": "runs text",
    "exec": "runs text",
    "compile": "makes a program of text",
    "execfile": "runs text",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "subprocess.getoutput": "starts a shell",
    "subprocess.getstatusoutput": "starts a shell",
    "asyncio.create_subprocess_shell": "starts a shell",
    "code.interact": "runs text",
    "torch.load": "reads a pickle",
    "torch.jit.load": "reads a program",
    "pandas.read_pickle": "reads a pickle",
    "numpy.core.multiarray._reconstruct": "reads a pickle",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes any object",
    "jinja2.Environment": "is no sandbox: airdraft.chat_template has one",
    "jinja2.Template": "is no sandbox: airdraft.chat_template has one",
    "jinja2.environment.Environment": "is no sandbox: airdraft.chat_template has one",
}

Found = tuple[int, str]


class Offences(ast.NodeVisitor):
    """Collects what a file does that it may not, by line."""

    def __init__(self, *, processes: bool) -> None:
        """``processes`` may be started with what multiprocessing brings."""
        self.found: list[Found] = []
        self._names: dict[str, str] = {}  # what a name of this file stands for
        self._banned = PICKLES if processes else PICKLES | PROCESSES

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imports(node, alias.name)
            name = alias.asname or alias.name.partition(".")[0]
            self._names[name] = alias.name if alias.asname else name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._imports(node, whole)
            self._names[alias.asname or alias.name] = whole
            if (called := whole.removeprefix("builtins.")) in CALLS:
                self._add(node, f"{called} {CALLS[called]}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Judge what is named, called or not: a name can be handed on."""
        name = self._name(node)
        if name in CALLS:
            self._add(node, f"{name} {CALLS[name]}")
        elif name in self._banned:
            self._add(node, f"{name} deals in pickles")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        name = self._names.get(node.id, f"builtins.{node.id}").removeprefix("builtins.")
        if name in CALLS and name == node.id and isinstance(node.ctx, ast.Load):
            self._add(node, f"{name} {CALLS[name]}")

    def visit_Call(self, node: ast.Call) -> None:
        name = self._name(node.func)
        if name in ("__import__", "builtins.__import__", "importlib.import_module", "pytest.importorskip"):
            self._imports(node, _constant(node.args[0] if node.args else None))
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in ("numpy.load", "numpy.lib.npyio.NpzFile") and _constant(given.get("allow_pickle")) != "False":
            self._add(node, "numpy.load needs allow_pickle=False")
        if name == "yaml.load" and "Safe" not in ast.dump(node):
            self._add(node, "yaml.load needs a SafeLoader")
        for keyword, value in given.items():
            if keyword in ("allow_pickle", "trust_remote_code", "shell") and _constant(value) != "False":
                self._add(node, f"{keyword} may only be False")
            if keyword == "weights_only" or (keyword == "use_safetensors" and _constant(value) != "True"):
                self._add(node, f"{keyword} tells of a pickle")
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        """Judge keywords that a call may get as ``**options``."""
        for key, value in zip(node.keys, node.values, strict=True):
            if _constant(key) in ("allow_pickle", "trust_remote_code") and _constant(value) != "False":
                self._add(node, f"{_constant(key)} may only be False")
        self.generic_visit(node)

    def _imports(self, node: ast.AST, name: str) -> None:
        if any(name == banned or name.startswith(f"{banned}.") for banned in self._banned):
            self._add(node, f"{name} deals in pickles")

    def _add(self, node: ast.AST, why: str) -> None:
        self.found.append((getattr(node, "lineno", 0), why))

    def _name(self, node: ast.AST) -> str:
        """Return the whole name of what an expression names; empty where it names nothing."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self._name(node.value)):
            return f"{owner}.{node.attr}".removeprefix("builtins.")
        return ""


def _constant(node: ast.AST | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def offences(source: str, *, processes: bool = True) -> list[Found]:
    """Return what a source does that it may not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a planted string may hold an odd escape
        tree = ast.parse(source)
    visitor = Offences(processes=processes)
    visitor.visit(tree)
    return sorted(set(visitor.found))


def sources() -> Iterator[Path]:
    """Yield every source that is ours; stubs are made by a tool."""
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if (REPOSITORY / "airdraft" / "v1") not in path.parents:
                yield path
    yield from sorted(REPOSITORY.glob("*.py"))


def test_no_source_reads_pickles_or_runs_text() -> None:
    found, seen = [], 0
    for path in sources():
        name = path.relative_to(REPOSITORY).as_posix()
        processes = name in MAY_START_PROCESSES
        found += [f"{name}:{line}: {why}" for line, why in offences(path.read_text("utf-8"), processes=processes)]
        seen += 1
    assert not found, "\n".join(found)
    assert seen > 300, "the sources are looked for in the wrong place"


def test_every_file_that_may_start_processes_does() -> None:
    for name in MAY_START_PROCESSES:
        assert offences((REPOSITORY / name).read_text("utf-8"), processes=False), f"{name} needs no exception any more"
        assert not name.startswith(PRODUCT)


OFFENDERS = [
    "import pickle",
    "import pickle as p",
    "from pickle import loads",
    "from pickle import loads as json_loads",
    "import _pickle",
    "import cPickle",
    "import dill",
    "import cloudpickle",
    "import joblib",
    "from joblib import load",
    "import shelve",
    "import marshal",
    "import torch.hub",
    "from torch import hub",
    "from torch import package",
    "import torch.package as archive",
    "def late():\n    import pickle",
    "try:\n    import pickle\nexcept ImportError:\n    pass",
    "__import__('pickle')",
    "import importlib\nimportlib.import_module('pickle')",
    "from importlib import import_module\nimport_module('cloudpickle')",
    "import torch\ntorch.load('weights.pt')",
    "import torch\ntorch.load('weights.pt', weights_only=True)",
    "import torch as t\nt.load('weights.pt')",
    "from torch import load",
    "import torch\nread = torch.load",
    "import torch\ntorch.hub.load('a', 'b')",
    "import torch.jit\ntorch.jit.load('program.pt')",
    "eval('1')",
    "exec('x = 1')",
    "compile('x = 1', 'f', 'exec')",
    "import builtins\nbuiltins.exec('x = 1')",
    "import builtins as b\nb.eval('1')",
    "from builtins import eval as run\nrun('1')",
    "run = eval",
    "list(map(eval, ['1']))",
    "import numpy as np\nnp.load('a.npy')",
    "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
    "import numpy as np\nnp.save('a.npy', x, allow_pickle=True)",
    "import numpy as np\nallowed = True\nnp.load('a.npy', allow_pickle=allowed)",
    "from numpy import load\nload('a.npy')",
    "AutoModel.from_pretrained('x', trust_remote_code=True)",
    "AutoModel.from_pretrained('x', trust_remote_code=options.code)",
    "options = {'trust_remote_code': True}",
    "AutoModel.from_pretrained('x', use_safetensors=False)",
    "AutoModel.from_pretrained('x', weights_only=False)",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "import yaml\nyaml.unsafe_load(text)",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import os\nos.system('ls')",
    "import os as o\no.popen('ls')",
    "from os import system",
    "import asyncio\nasyncio.create_subprocess_shell('ls')",
    "import jinja2\njinja2.Template(text)",
    "from jinja2 import Environment",
]

INNOCENT = [
    "model.eval()",
    "torch.inference_mode()",
    "import re\nre.compile('a')",
    "pickle = 'weights.bin'",
    "import json\njson.load(file)",
    "import numpy as np\nnp.load('a.npz', allow_pickle=False)",
    "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "import yaml\nyaml.safe_load(text)",
    "import subprocess\nsubprocess.run(['ls'])",
    "AutoModel.from_pretrained('x', trust_remote_code=False, use_safetensors=True)",
    "options = {'trust_remote_code': False}",
    "from jinja2.sandbox import ImmutableSandboxedEnvironment",
    "from safetensors.numpy import load\nload(content)",
    "class Engine:\n    def load(self):\n        return self.load()",
]

PARALLEL = [
    "import multiprocessing",
    "from multiprocessing import Pipe",
    "import multiprocessing.connection",
    "from multiprocessing.shared_memory import SharedMemory",
    "from concurrent.futures import ProcessPoolExecutor",
    "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
]


@pytest.mark.parametrize("source", OFFENDERS)
def test_what_is_planted_is_found(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize("source", INNOCENT)
def test_what_only_looks_like_it_is_left_alone(source: str) -> None:
    assert not offences(source, processes=False)


@pytest.mark.parametrize("source", PARALLEL)
def test_processes_that_speak_in_pickles_are_for_benches(source: str) -> None:
    assert offences(source, processes=False)
    assert not offences(source, processes=True)
