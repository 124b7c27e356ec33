"""``python -m tests.conformance [FILE …]``: replay the kit, or some files of it, and say what differs."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.check import check_file, kit_files


def main(names: list[str]) -> int:
    """Return 0 where nothing differs."""
    files = [Path(name) for name in names] or kit_files()
    findings = [finding for path in files for finding in check_file(path)]
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{len(files)} files, {len(findings)} findings\n")
    return 1 if findings or not files else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
