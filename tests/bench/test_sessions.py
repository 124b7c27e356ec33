"""The sessions bench: rounds keep their pace, and what is left behind is counted where it is left."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")

from airdraft.identity.gate import Gate
from bench.door import door
from bench.figures import Result
from bench.sessions import Size, add_leak, add_rounds
from bench.stub_server import Held

SIZE = Size(2, 0.0, 0.0, 10.0, 0, 0)


def told(rounds: list[float], errors: list[str]) -> dict[str, object]:
    once = [0.001]
    return {
        "connects_s": once,
        "rounds_s": rounds,
        "warm_rounds_s": once,
        "late": 0,
        "texts": 1,
        "errors": errors,
    }


def test_rounds_of_all_processes_count_and_so_do_errors() -> None:
    result = Result("sessions")
    add_rounds(result, [told([0.010] * 97, []), told([0.020, 0.030, 0.500], ["x", "x"])], SIZE, 0.5)
    assert result.figures["errors"] == 2
    assert result.figures["rounds"] == 100
    assert result.figures["rounds_a_second"] == 10
    assert result.figures["p50_ms"] == 10
    assert 30 < result.figures["p99_ms"] < 500
    assert result.figures["sessions"] == 2


def test_a_leak_is_what_is_there_after_and_was_not_before() -> None:
    fresh, busy = Held(50_000, 10, 20, 0, 0, 0, 0, 0), Held(80_000, 11, 21, 0, 0, 0, 0, 0)
    result = Result("sessions")
    did = {"before_open": 6, "mid_draft": 4, "refused": 2}
    add_leak(result, fresh, busy, Held(85_000, 14, 21, 1, 0, 64, 0, 0), did)
    assert result.figures["leak_mb"] == pytest.approx(5.12)
    assert (result.figures["leaked_tasks"], result.figures["leaked_descriptors"]) == (3, 0)
    assert (result.figures["leaked_sessions"], result.figures["leaked_rows"]) == (1, 64)
    assert result.figures["cancelled"] == 10


def test_the_door_opens_to_its_tickets_alone(tmp_path: Path) -> None:
    entrance = door(tmp_path, 2)
    gate = Gate(
        keys=Path(entrance.settings["keys"]),
        issuers=None,
        wants_certificate=True,
        clock=lambda: 0.0,
        monotonic=lambda: 0.0,
        report=lambda line: None,
    )
    first, second = entrance.tickets
    certificate = Path(first.certificate).read_bytes()
    assert gate.admit(first.bearer, certificate).tenant == "tenant-0"
    assert gate.admit(second.bearer, certificate).tenant == "tenant-1"
    with pytest.raises(Exception, match="key"):
        gate.admit(first.bearer + "x", certificate)
    assert first.bearer not in first.word
