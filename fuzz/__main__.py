"""``python -m fuzz``: search one harness or all, or run inputs again.

python -m fuzz                         the harnesses, a line each
python -m fuzz HARNESS                 search from what it knows, until stopped
python -m fuzz HARNESS --minutes 5     for so long
python -m fuzz HARNESS FILE …          run these inputs again: what they raise is shown
python -m fuzz all --minutes 5         each harness in turn, so long each
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
CORPUS, CRASHES = HERE / "corpus", HERE / "crashes"
MOST_INPUT_BYTES = 1 << 16
SLOW_S = 20
"""An input that takes longer is a finding."""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def again(name: str, inputs: Sequence[Path]) -> int:
    """Run inputs again; return 1 where one is not borne. What it raises is shown."""
    from traceback import print_exc

    from fuzz.harnesses import HARNESSES

    failed = 0
    for path in inputs:
        try:
            HARNESSES[name].run(path.read_bytes())
        except Exception:
            print_exc()
            failed = 1
        else:
            _say(f"{path}: nothing")
    return failed


def search(name: str, minutes: float) -> int:
    """Search by coverage, beginning with seeds and corpus, until an input is not borne or the time is over."""
    import atheris

    with atheris.instrument_imports(include=["airdraft", "device_client", "edge_node", "coordinator"]):
        from fuzz.harnesses import HARNESSES
    harness = HARNESSES[name]
    corpus, crashes = CORPUS / name, CRASHES / name
    corpus.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    for seed in harness.seeds():
        if len(seed) <= MOST_INPUT_BYTES:
            (corpus / f"seed-{sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    arguments = [
        *(sys.argv[0], str(corpus), f"-artifact_prefix={crashes}/", f"-max_len={MOST_INPUT_BYTES}"),
        *(f"-timeout={SLOW_S}", "-rss_limit_mb=4096", "-print_final_stats=1", "-verbosity=0"),
        *([f"-max_total_time={max(1, int(minutes * 60))}"] if minutes else []),
    ]
    change = harness.mutate
    if change is None:
        atheris.Setup(arguments, harness.run)
    else:

        def structured(data: bytes, max_size: int, seed: int) -> bytes:
            return change(data, Random(seed))[:max_size]

        atheris.Setup(arguments, harness.run, custom_mutator=structured)
    atheris.Fuzz()  # ends the process
    return 0


def in_turn(minutes: float) -> int:
    """Search every harness for so long, each in a process of its own; return 1 where one found something."""
    from fuzz.harnesses import HARNESSES

    found: list[str] = []
    for name in HARNESSES:
        _say(f"fuzz {name}: {minutes:g} minutes")
        began = time.time()
        command = [sys.executable, "-m", "fuzz", name, "--minutes", str(minutes)]
        code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        kept = [path for path in sorted((CRASHES / name).glob("*")) if path.stat().st_mtime >= began]
        found += [f"python -m fuzz {name} {path.relative_to(HERE.parent)}" for path in kept]
        if code and not kept:
            found.append(f"python -m fuzz {name} --minutes {minutes:g}   (ended with {code})")
    _say(f"{len(HARNESSES)} harnesses, {len(found)} findings" + (", each shown again by:" if found else ""))
    for line in found:
        _say(f"  {line}")
    return 1 if found else 0


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("harness", nargs="?")
    options.add_argument("inputs", nargs="*", type=Path)
    options.add_argument("--minutes", type=float, default=0.0, help="0: until stopped")
    given = options.parse_args()
    if given.harness == "all":
        return in_turn(given.minutes or 1.0)
    if given.harness and not given.inputs and given.harness in known():
        return search(given.harness, given.minutes)
    from fuzz.harnesses import HARNESSES

    if given.harness is None:
        for name, harness in HARNESSES.items():
            _say(f"{name:<16} {harness.about}")
        return 0
    if given.harness not in HARNESSES:
        options.error(f"no harness {given.harness!r}; known: all, {', '.join(HARNESSES)}")
    return again(given.harness, given.inputs)


def known() -> set[str]:
    """Return the names of the harnesses without importing what atheris is to instrument."""
    import ast

    tree = ast.parse((HERE / "harnesses.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "HARNESSES"
        and isinstance(node.value, ast.Dict)
    )
    return {ast.literal_eval(key) for key in table.keys if key is not None}


if __name__ == "__main__":
    raise SystemExit(main())
