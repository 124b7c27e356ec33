"""Settings to plans."""

from __future__ import annotations

import pytest

from airdraft.core.types import Plan
from coordinator.policy.plan import FRAMES
from device_client.config import DeviceSettings
from device_client.plan import plan_of


@pytest.mark.parametrize(
    ("schedule", "model", "length", "plan"),
    [
        ("auto", "ngram", 4, Plan(4)),
        ("auto", "demo", 4, Plan(1, FRAMES)),
        ("sync", "demo", 6, Plan(6, waits=True)),
        ("pipelined", "ngram", 4, Plan(1, FRAMES)),
        ("pipelined", "demo", 0, Plan(0)),
        ("auto", "demo", 0, Plan(0)),
    ],
)
def test_a_plan_follows_from_the_settings(schedule: str, model: str, length: int, plan: Plan) -> None:
    settings = DeviceSettings.model_validate({"schedule": schedule, "draft_model": model, "draft_length": length})
    assert plan_of(settings.schedule, settings.draft_model, settings.draft_length) == plan
