"""Settings of a device."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from airdraft.settings import Addresses, ProcessSettings
from coordinator.policy.plan import objective_of
from device_client.draft_stop import policy_of
from device_client.plan import Schedule


class DeviceSettings(ProcessSettings):
    """What ``device_client generate`` can be told; each field is an option, a variable and a TOML key."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="AIRDRAFT_DEVICE_")
    table: ClassVar[str] = "device_client"

    edge: Addresses = Field(default=("127.0.0.1:50051",), min_length=1)
    draft_model: str = "ngram"
    draft_revision: str | None = None
    max_tokens: int = Field(default=256, ge=0)
    schedule: Schedule = "auto"
    draft_length: int = Field(default=4, ge=0, le=512)
    objective: str = "latency"
    draft_policy: str | None = None
    round_log: Path | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    temperature: float = Field(default=0.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    connect_seconds: float = Field(default=5.0, gt=0)
    reconnect_seconds: float = Field(default=120.0, gt=0)

    @field_validator("draft_policy")
    @classmethod
    def _is_a_policy(cls, name: str | None) -> str | None:
        if name is not None:
            policy_of(name)
        return name

    @field_validator("objective")
    @classmethod
    def _is_an_objective(cls, words: str) -> str:
        objective_of(words)
        return words
