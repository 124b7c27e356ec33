"""Settings of a process: command line over environment over TOML over default; unknown keys fail.

The three sources are pydantic-settings' own; this adds that a misspelt variable of ours fails too, and that an error is
one line which names the key and where it came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

CONFIG_VARIABLE = "AIRDRAFT_CONFIG"


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
