"""What a credential says of its caller, as key files and tokens write it: tenant, scopes, allowance."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from airdraft.core.callers import Allowance, Scope

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")


def tenant_name(text: str) -> str:
    """Return the text, where it is a tenant's name. Raises ValueError."""
    if not _TENANT.fullmatch(text):
        raise ValueError("a tenant's name is 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


TenantName = Annotated[str, AfterValidator(tenant_name)]

Scopes = Annotated[frozenset[Annotated[Scope, Field(strict=False)]], Field(strict=False, min_length=1)]


def _digest(value: object) -> bytes:
    if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ValueError("must be a SHA-256 digest, 64 hexadecimal digits")
    return bytes.fromhex(value)


HexDigest = Annotated[bytes, BeforeValidator(_digest)]

_Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Strict(BaseModel):
    """A table in which nothing is unknown, converted or shown in an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AllowanceTable(Strict):
    """An ``Allowance``, field by field."""

    positions_s: _Rate = 0.0
    prefill_s: _Rate = 0.0
    sessions: _Count = 0
    streams: _Count = 0

    def allowance(self) -> Allowance:
        """Return the value."""
        return Allowance(self.positions_s, self.prefill_s, self.sessions, self.streams)


class Grant(Strict):
    """Who a caller is, and what is theirs."""

    tenant: TenantName
    scopes: Scopes
    allowance: AllowanceTable | None = None


def fault(error: ValidationError, table: type[BaseModel]) -> str:
    """Return what is wrong with a table, in one line without any of its values."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    names = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        # A secret that was pasted to the left of a = would be shown by its name.
        name = names[-1] if len(names[-1]) <= 20 and names[-1].isidentifier() else "one"
        known = AllowanceTable if "allowance" in names[:-1] else table
        return f"unknown key {name}; known: {', '.join(known.model_fields)}"
    return f"{'.'.join(names)}: {first['msg'].removeprefix('Value error, ')}"
