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

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

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
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{name.replace('_', '-')}: {first['msg']}; got {first['input']!r}") from error

    @classmethod
    def _read(cls, path: Path) -> dict[str, Any]:
        try:
            content = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path} is not TOML: {error}") from error
        table = content.get(cls.table, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{cls.table} in {path} must be a table: write [{cls.table}]")
        return table
