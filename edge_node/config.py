"""Settings of an edge node."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from airdraft.settings import Addresses, Names, ProcessSettings


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class EdgeSettings(ProcessSettings):
    """What ``edge_node serve`` can be told; each field is an option, an ``AIRDRAFT_EDGE_…`` variable and a TOML key."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="AIRDRAFT_EDGE_")
    table: ClassVar[str] = "edge_node"

    model: str = "demo"
    served_model_name: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    profile: Literal["fast", "strict"] = "fast"
    kv_dtype: Literal["auto", "int8"] = "auto"
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    insecure: bool = False
    max_sessions: int = Field(default=64, ge=1)
    least_rate: float = Field(default=0.0, ge=0)
    max_context: int = Field(default=4096, ge=2)
    resume_seconds: float = Field(default=60.0, ge=0)
    kv_tokens: int | None = Field(default=None, ge=2)
    step_positions: int = Field(default=512, ge=1)
    run_ahead: bool = True
    favour: Literal["speed", "edge-time"] = "speed"
    edge_draft_model: str = "ngram"
    edge_draft_length: int = Field(default=4, ge=1, le=64)
    drain_seconds: float = Field(default=20.0, ge=0)
    drain_to: Addresses = ()
    receipt_key: Path | None = None
    own_text_only: bool = False
    semantic: bool = True
    head: Names = ("auto",)
    most_loss: float = Field(default=0.05, ge=0, lt=1)
    reflect: bool = False
    audit_share: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _guard_the_door(self) -> Self:
        if not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines and this version has neither TLS nor "
                "authentication; add --insecure on a trusted network, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _one_text_fits(self) -> Self:
        if self.kv_tokens is not None and self.kv_tokens < self.max_context:
            raise ValueError(
                f"kv_tokens {self.kv_tokens} cannot hold one text of max_context {self.max_context}; raise it or "
                "lower max_context"
            )
        return self
