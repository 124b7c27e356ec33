"""The kit is what the code does; the runner can tell when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from airdraft.core import paths
from tests.conformance.__main__ import main
from tests.conformance.check import check_file, kit_files
from tests.conformance.kit import FOLDER
from tests.conformance.make import texts, write

FILES = kit_files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_code_replays_the_kit(path: Path) -> None:
    assert [str(finding) for finding in check_file(path)] == []


def test_made_again_it_is_the_same_kit() -> None:
    """A difference is a change of behaviour: look at it, then ``python -m tests.conformance.make``."""
    committed = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
    made = texts()
    assert sorted(committed) == sorted(made)
    assert [name for name in made if made[name] != committed[name]] == []
    assert sum(map(len, made.values())) < 1_000_000


def _flipped(text: str) -> str:
    """Return a hex string with its last digit changed."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def _set(entry: Any, key: Any, change: Callable[[Any], Any]) -> None:
    entry[key] = change(entry[key])


FLIPS: list[tuple[str, Callable[[Any], None], str]] = [
    ("paths.json", lambda kit: _set(kit["roots"][2], "hash", _flipped), "roots 2: hash"),
    ("paths.json", lambda kit: _set(kit["chains"][3]["hashes"], 1, _flipped), "chains 3: hashes"),
    ("paths.json", lambda kit: _set(kit["digests"][4], "digest", _flipped), "digests 4: digest"),
    ("noise.json", lambda kit: _set(kit["cases"][7], "key", _flipped), "cases 7: key"),
    ("noise.json", lambda kit: _set(kit["cases"][7]["words"], 2, _flipped), "cases 7: words"),
    ("noise.json", lambda kit: _set(kit["cases"][9]["u"], 0, lambda u: u + 2.0**-52), "cases 9: u"),
    ("noise.json", lambda kit: _set(kit["cases"][9]["gumbel"], 5, lambda g: g + 1e-13), "cases 9: gumbel"),
    ("noise.json", lambda kit: _set(kit["extremes"][0], "gumbel", lambda g: g - 1e-13), "extremes 0: gumbel"),
    ("sampler.json", lambda kit: _set(kit["cases"][40], "choice", lambda token: token + 1), "choice"),
    ("sampler.json", lambda kit: kit["cases"][50]["survivors"].append(399), "survivors"),
    ("sampler.json", lambda kit: _set(kit["cases"][60]["scores"], 0, lambda score: score + 2.0**-40), "scores"),
    ("tokenizers.json", lambda kit: _set(kit["cases"][1], "digest", _flipped), "spelled in another way': digest"),
    ("receipts.json", lambda kit: _set(kit["signed"][1], "key_name", _flipped), "every setting': key_name"),
    ("receipts.json", lambda kit: _set(kit["signed"][0], "receipt", _flipped), "signed 'plain': receipt"),
    ("receipts.json", lambda kit: _set(kit["signed"][9], "message", _flipped), "65 bytes': HMAC of the message"),
    ("receipts.json", lambda kit: _set(kit["presented"][0], "verdict", lambda _: "none"), "next epoch': verdict"),
    ("receipts.json", lambda kit: _set(kit["presented"][1], "receipt", _flipped), "later epoch': verdict"),
    ("wire.json", lambda kit: kit["fits"][6]["frame"]["draft"].update(seq=9), "fits 6: frame"),
    ("wire.json", lambda kit: kit["also_fits"].append(kit["refused"][3]), "also_fits 3: refused"),
    ("wire.json", lambda kit: _set(kit["refused"][3], "field", lambda _: "ids"), "refused 3: field"),
    (
        "synchronous.device.json",
        lambda kit: _set(kit["steps"][1]["outputs"][0]["send"], "bytes", _flipped),
        "step 1: outputs",
    ),
    ("synchronous.device.json", lambda kit: kit["steps"][4]["after"]["ahead"].append(1), "step 4: after"),
    ("pipelined.device.json", lambda kit: _set(kit["steps"][3], "work", lambda _: {"length": 1}), "step 3: work"),
    ("pipelined.device.json", lambda kit: _set(kit["ids"], -1, lambda token: token + 1), "ids"),
    ("next-epoch.device.json", lambda kit: kit["steps"][2]["after"].update(next_epoch=10), "step 2: after"),
    (
        "receipts-kept.device.json",
        lambda kit: _set(kit["steps"][1]["outputs"][0]["committed"], "receipt", _flipped),
        "step 1: outputs",
    ),
    ("journalled.device.json", lambda kit: _set(kit["setup"]["journalled"], "receipt", _flipped), "step 2: outputs"),
    ("journalled.device.json", lambda kit: _set(kit["setup"]["journalled"], "epoch", lambda _: 5), "step 0: after"),
    ("journalled-end.device.json", lambda kit: kit["setup"]["journalled"].update(stop=None), "step 0"),
    (
        "drafting-detached.device.json",
        lambda kit: kit["steps"][-2]["event"]["attach"].pop("limits"),
        "step 15: outputs",
    ),
    ("drained.device.json", lambda kit: kit["steps"][4]["outputs"].clear(), "step 4: outputs"),
    ("pings.edge.json", lambda kit: kit["steps"][1]["outputs"].clear(), "step 1: outputs"),
    ("receipt-good.edge.json", lambda kit: _set(kit["setup"], "receipt_key", _flipped), "step 3: outputs"),
    ("own-text-only.edge.json", lambda kit: kit["setup"].pop("own_text_only"), "step 0"),
    ("tree.edge.json", lambda kit: _set(kit["steps"][5]["pass"], "gather", lambda _: []), "step 5: pass"),
    ("tree.edge.json", lambda kit: _set(kit["steps"][4]["event"]["passed"]["choices"], 0, lambda _: 7), "step 4"),
    ("tree.edge.json", lambda kit: kit["steps"][3]["event"]["received"].update(frame={}), "step 3: event"),
    ("tree.edge.json", lambda kit: _set(kit["steps"][3], "event", lambda _: {"slept": {}}), "step 3: expected"),
    ("rows-drawn.device.json", lambda kit: kit["setup"]["plan"].pop("split"), "step 0: outputs"),
    ("rows-drawn.edge.json", lambda kit: kit["steps"][4]["event"]["passed"].pop("row"), "step 4: outputs"),
    ("receipts.json", lambda kit: _set(kit["presented"][-5], "spent", lambda spent: spent * 2), "session': spent"),
    ("states.json", lambda kit: _set(kit["rows"][4]["numbers"][0], 1, lambda number: -9.0), "rows 4: bytes"),
    ("states.json", lambda kit: _set(kit["rows"][5]["read"][0], 1, lambda number: number + 1), "rows 5: read"),
    ("states.json", lambda kit: _set(kit["refused"][6], "bytes", lambda data: data[:8] + "0000"), "refused 6"),
    ("meaning-granted.device.json", lambda kit: kit["setup"].pop("semantic"), "step 0: outputs"),
    ("meaning-granted.device.json", lambda kit: kit["setup"]["plan"].pop("provisional_s"), "step 3: outputs"),
    (
        "meaning-granted.device.json",
        lambda kit: _set(kit["steps"][5]["event"]["channel"], "miss_s", lambda _: 0.25),
        "step 5: outputs",
    ),
    (
        "meaning-granted.device.json",
        lambda kit: _set(kit["steps"][13]["after"], "spent", lambda _: 0.0625),
        "step 13: after",
    ),
    ("meaning-lies.device.json", lambda kit: kit["steps"][10]["outputs"].clear(), "step 10: outputs"),
    (
        "states-with-drafts.device.json",
        lambda kit: _set(kit["steps"][3]["event"]["drafted"]["states"][0], 2, lambda number: -number),
        "step 3: outputs",
    ),
    (
        "states-of-the-doubtful.device.json",
        lambda kit: _set(kit["steps"][2]["event"]["drafted"]["probabilities"], 1, lambda _: 0.9375),
        "step 2: outputs",
    ),
    ("judged.edge.json", lambda kit: kit["setup"]["judge"]["control_ids"].clear(), "step 8: outputs"),
    (
        "judged.edge.json",
        lambda kit: _set(kit["steps"][4]["event"]["passed"]["evidence"][0], "drafted_log_p", lambda _: -9.0),
        "step 4: outputs",
    ),
    (
        "states-asked.edge.json",
        lambda kit: _set(kit["setup"]["judge"]["head"], "draft", lambda _: [[0.0] * 4]),
        "step 5: outputs",
    ),
    ("states-asked.edge.json", lambda kit: _set(kit["steps"][15]["event"], "at_s", lambda _: 4.375), "step 15"),
]


@pytest.mark.parametrize(("name", "flip", "where"), FLIPS, ids=lambda value: value if isinstance(value, str) else "")
def test_one_flipped_value_is_found(name: str, flip: Callable[[Any], None], where: str, tmp_path: Path) -> None:
    (original,) = [path for path in FILES if path.name == name]
    content = json.loads(original.read_text(encoding="utf-8"))
    flip(content)
    copy = tmp_path / name
    copy.write_text(json.dumps(content), encoding="utf-8")
    (finding,) = check_file(copy)
    assert str(finding).startswith(f"{name}: ")
    assert where in str(finding)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != FOLDER], ids=lambda path: path.name)
def test_a_flip_in_the_last_step_of_any_session_is_found(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["steps"][-1]["after"]["length"] += 1
    copy = tmp_path / path.name
    copy.write_text(json.dumps(content), encoding="utf-8")
    assert [finding.where for finding in check_file(copy)] == [f"step {len(content['steps']) - 1}: after"]


def test_a_core_that_hashes_in_another_way_fails_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_ID", Struct(">I"))
    kinds = ("paths.json", "synchronous.device.json", "synchronous.edge.json")
    for path in FILES:
        assert bool(check_file(path)) or path.name not in kinds


def test_the_command_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "tokenizers.json"
    content = json.loads((FOLDER / copy.name).read_text(encoding="utf-8"))
    content["cases"][0]["vocabulary"] = 9
    copy.write_text(json.dumps(content), encoding="utf-8")
    assert main([str(FOLDER / copy.name)]) == 0
    assert main([str(copy)]) == 1
    assert "tokenizers.json: case 'one': vocabulary: expected 9, got 8\n1 files, 1 findings" in capsys.readouterr().out


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "paths.json"
    copy.write_text('{"kind": "paths", "version": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match="version 2"):
        check_file(copy)


def test_making_removes_what_is_no_longer_of_the_kit(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}", encoding="utf-8")
    write(tmp_path)
    assert {path.name for path in tmp_path.rglob("*.json")} == {path.name for path in FILES}
