"""Which system tests belong to which environment."""

from __future__ import annotations

import os
from importlib.util import find_spec

# test_device_install wants an environment without torch, and `make tests-device` makes one; the rest wants torch.
collect_ignore = ["test_device_install.py"] if find_spec("torch") else []
if not find_spec("torch"):
    collect_ignore_glob = ["test_[!d]*.py"]
assert find_spec("torch") or os.environ.get("AIRDRAFT_TEST_EDGE_PYTHON"), "run these by `make tests-device`"
