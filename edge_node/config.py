"""Settings of an edge node."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from airdraft.settings import Addresses, DoorSettings, Names


class EdgeSettings(DoorSettings):
    """What ``edge_node serve`` can be told; each field is an option, an ``AIRDRAFT_EDGE_…`` variable and a TOML key."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="AIRDRAFT_EDGE_")
    table: ClassVar[str] = "edge_node"

    model: str = "demo"
    served_model_name: str | None = None
    revision: str | None = None
    manifest: Path | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    profile: Literal["fast", "strict"] = "fast"
    kv_dtype: Literal["auto", "int8"] = "auto"
    port: int = Field(default=50051, ge=0, le=65535)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    max_sessions: int = Field(default=64, ge=1)
    least_rate: float = Field(default=0.0, ge=0)
    tenant_positions: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    tenant_prefill: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    tenant_sessions: int = Field(default=0, ge=0)
    tenant_streams: int = Field(default=64, ge=0)
    max_context: int = Field(default=4096, ge=2)
    resume_seconds: float = Field(default=60.0, ge=0)
    kv_tokens: int | None = Field(default=None, ge=2)
    step_positions: int = Field(default=512, ge=1)
    run_ahead: bool = True
    favour: Literal["speed", "edge-time"] = "speed"
    edge_draft_model: str = "ngram"
    edge_draft_manifest: Path | None = None
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
    def _one_text_fits(self) -> Self:
        if self.kv_tokens is not None and self.kv_tokens < self.max_context:
            raise ValueError(
                f"kv_tokens {self.kv_tokens} cannot hold one text of max_context {self.max_context}; raise it or "
                "lower max_context"
            )
        return self
