"""Settings of a device."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from airdraft.core.addresses import host_of, is_loopback
from airdraft.core.meaning import RULES
from airdraft.settings import Addresses, ProcessSettings, check_pair
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
    draft_manifest: Path | None = None
    max_tokens: int = Field(default=256, ge=0)
    schedule: Schedule = "auto"
    draft_length: int = Field(default=4, ge=0, le=512)
    objective: str = "latency"
    draft_policy: str | None = None
    round_log: Path | None = None
    accept: Literal["exact", "semantic"] = "exact"
    max_quality_loss: float | None = Field(default=None, le=1, validate_default=True)
    accept_rule: str = "head"
    hidden: Literal["target-only", "full-hidden", "mismatch-first", "margin-first"] = "target-only"
    state_kind: Literal["int8", "fp8"] = "int8"
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    temperature: float = Field(default=0.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    pad: bool = False
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    key_file: Path | None = None
    insecure: bool = False
    connect_seconds: float = Field(default=5.0, gt=0)
    reconnect_seconds: float = Field(default=120.0, gt=0)

    @property
    def over_tls(self) -> bool:
        """Return whether edges are met over TLS: each of its files asks for it too."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    @model_validator(mode="after")
    def _keeps_its_key(self) -> Self:
        check_pair("--tls-cert", self.tls_cert, "--tls-key", self.tls_key)
        seen = [edge for edge in self.edge if not is_loopback(host_of(edge))]
        if self.key_file is not None and seen and not self.over_tls and not self.insecure:
            raise ValueError(
                f"--key-file would cross the network to {seen[0]} in plain text; add --tls-ca FILE (or --tls, where "
                "its certificate is a public one), or --insecure on a trusted network"
            )
        return self

    @field_validator("draft_policy")
    @classmethod
    def _is_a_policy(cls, name: str | None) -> str | None:
        if name is not None:
            policy_of(name)
        return name

    @field_validator("max_quality_loss")
    @classmethod
    def _caps_what_is_asked(cls, cap: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("accept") == "semantic" and not (cap is not None and cap > 0):
            raise ValueError("--accept semantic needs it above 0: the share of answers that may become worse, 0.01 say")
        return cap

    @field_validator("accept_rule")
    @classmethod
    def _is_a_rule(cls, name: str) -> str:
        if name not in RULES:
            raise ValueError(f"no such rule; there are {', '.join(RULES)}")
        return name

    @field_validator("objective")
    @classmethod
    def _is_an_objective(cls, words: str) -> str:
        objective_of(words)
        return words
