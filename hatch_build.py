"""Build hook: makes the protobuf and gRPC stubs of proto/ into airdraft/v1/, which git does not hold."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsHook(BuildHookInterface):
    """Runs protoc for every .proto of the project, for wheels and for editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the stubs beside the package; a failing protoc ends the build with its own message."""
        from grpc_tools import protoc

        root = Path(self.root)
        well_known = files("grpc_tools") / "_proto"
        for source in sorted((root / "proto").rglob("*.proto")):
            arguments = [
                "protoc",
                f"--proto_path={root / 'proto'}",
                f"--proto_path={well_known}",
                f"--python_out={root}",
                f"--pyi_out={root}",
                f"--grpc_python_out={root}",
                str(source),
            ]
            if protoc.main(arguments) != 0:
                raise RuntimeError(f"protoc failed for {source}; its message stands above")
