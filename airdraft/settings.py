"""Settings of a process: command line over environment over TOML over default; unknown keys fail.

The three sources are pydantic-settings' own; this adds that a misspelt variable of ours fails too, and that an error is
one line which names the key and where it came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from airdraft.core.addresses import is_loopback

CONFIG_VARIABLE = "AIRDRAFT_CONFIG"


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _addressed(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{value!r} is no HOST:PORT")
    return value


Addresses = Annotated[tuple[Annotated[str, AfterValidator(_addressed)], ...], NoDecode, BeforeValidator(_listed)]
"""Several HOST:PORT; as one string, in a variable or a file, with commas between."""


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""Several words; as one string, in a variable or a file, with commas between."""


class SettingsError(ValueError):
    """A setting is unknown or has a value that does not fit; the text is one line."""


class ProcessSettings(BaseSettings):
    """Base of a process' settings: a subclass names its TOML table and the prefix of its variables."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")
    table: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the command line, then the environment; ``load`` puts the file below both."""
        return init_settings, env_settings

    @classmethod
    def load(cls, given: Mapping[str, Any], config: Path | None = None) -> Self:
        """Return the settings; ``given`` are those of the command line, None where an option was not used.

        Raises SettingsError.
        """
        known = ", ".join(sorted(cls.model_fields))
        prefix = cls.model_config.get("env_prefix", "").upper()
        for name in os.environ:
            if name.startswith(prefix) and name[len(prefix) :].lower() not in cls.model_fields:
                raise SettingsError(f"unknown variable {name}; known after {prefix}: {known}")
        named = os.environ.get(CONFIG_VARIABLE)
        path = config or (Path(named) if named else None)
        from_file = {} if path is None else cls._read(path)
        for name in from_file:
            if name not in cls.model_fields:
                raise SettingsError(f"unknown key {name!r} in [{cls.table}] of {path}; known: {known}")
        in_environment = {name for name in from_file if f"{prefix}{name.upper()}" in os.environ}
        merged = {name: value for name, value in from_file.items() if name not in in_environment}
        merged |= {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**merged)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # of several keys together
                raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{name.replace('_', '-')}: {first['msg']}; got {first['input']!r}") from error

    @classmethod
    def _read(cls, path: Path) -> dict[str, Any]:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not TOML: it is no text in UTF-8") from error
        except RecursionError as error:
            raise SettingsError(f"{path} is not TOML: it is nested too deep") from error
        except ValueError as error:  # TOMLDecodeError, or a date that no calendar has
            raise SettingsError(f"{path} is not TOML: {error}") from error
        table = content.get(cls.table, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{cls.table} in {path} must be a table: write [{cls.table}]")
        return table


class DoorSettings(ProcessSettings):
    """Settings of a process that listens: where, over what, and who is let in."""

    host: str = "127.0.0.1"
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    keys: Path | None = None
    issuers: Path | None = None

    @model_validator(mode="after")
    def _guard_the_door(self) -> Self:
        guard_the_door(self)
        return self


def guard_the_door(door: DoorSettings) -> None:
    """Raise ValueError where strangers could come in, or could read along, though nobody has said that they may."""
    check_pair("--tls-cert", door.tls_cert, "--tls-key", door.tls_key)
    if door.client_ca is not None and door.tls_cert is None:
        raise ValueError("--client-ca asks for certificates, which needs TLS: add --tls-cert and --tls-key")
    missing = ["TLS (--tls-cert and --tls-key)"] if door.tls_cert is None else []
    missing += ["authentication (--keys or --issuers)"] if door.keys is None and door.issuers is None else []
    if missing and not door.insecure and not is_loopback(door.host):
        raise ValueError(
            f"host {door.host} is reachable from other machines without {' and '.join(missing)}; add what is missing, "
            "or add --insecure on a trusted network, or listen on 127.0.0.1"
        )


def check_pair(one: str, first: Path | None, other: str, second: Path | None) -> None:
    """Raise ValueError where one of two files is given that are of use only together."""
    if (first is None) != (second is None):
        given, lacking = (one, other) if second is None else (other, one)
        raise ValueError(f"{given} is of no use alone: add {lacking}")
