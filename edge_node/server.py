"""The edge's process: listens, loads, serves, drains."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tokenizers import Tokenizer

from airdraft import __version__
from airdraft.checkpoint import DEMO_FOLDERS, Role, local_folder
from airdraft.core.callers import Allowance
from airdraft.core.receipts import KEY_BYTES, ReceiptKey
from airdraft.core.types import Limits
from airdraft.manifest import Manifest, read_manifest, root_of
from airdraft.wire.describe import Description
from airdraft.wire.server import SERVER_OPTIONS, SERVICE_NAME, add_verification
from edge_node.audit_checks import same_by
from edge_node.audits import Audits
from edge_node.config import EdgeSettings
from edge_node.door import Door
from edge_node.engine_messages import Load, Loaded
from edge_node.engine_process import ENGINE, EngineDied, EngineProcess, Watch
from edge_node.granting import Granting
from edge_node.heads import HeadFile, HeadRefused, load_head
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics, serve_metrics
from edge_node.service import EdgeService
from edge_node.sessions import SessionTable, Terms
from edge_node.tenants import Tenants

Report = Callable[[str], None]
_HEALTH = health_pb2.HealthCheckResponse


class KeyRefused(RuntimeError):
    """The file of the receipt key cannot be used."""


def receipt_key(path: Path | None) -> ReceiptKey:
    """Return the key in a file; without one a key that lives as long as this process. Raises KeyRefused."""
    if path is None:
        return ReceiptKey(secrets.token_bytes(KEY_BYTES))
    try:
        return ReceiptKey(path.read_bytes())
    except OSError as error:
        raise KeyRefused(f"cannot read the receipt key {path}: {error.strerror}") from error
    except ValueError as error:
        raise KeyRefused(f"{path}: {error}; make one with: openssl rand -out {path} {KEY_BYTES}") from None


def describe(loaded: Loaded, settings: EdgeSettings) -> Description:
    """Return what this edge says of itself."""
    return Description(
        model_name=settings.served_model_name or loaded.name,
        model_digest=loaded.model_digest,
        tokenizer_digest=loaded.tokenizer_digest,
        stop_ids=loaded.stop_ids,
        vocabulary=loaded.vocabulary,
        limits=Limits(context_tokens=loaded.context_tokens),
        numerics=loaded.numerics,
        chat_template=loaded.chat_template or "",
        tokenizer_json=loaded.tokenizer_json,
        server_version=__version__,
    )


def head_files(settings: EdgeSettings) -> list[Path]:
    """Return the files of the semantic heads that the settings name. Raises HeadRefused."""
    if not settings.semantic:
        return []
    files: list[Path] = []
    for name in settings.head:
        if name == "demo" or (name == "auto" and settings.model == "demo"):
            folders = [folder / "heads" for folder in DEMO_FOLDERS]
            shipped = next((found for folder in folders if (found := _shipped(folder))), [])
            if name == "demo" and not shipped:
                raise HeadRefused("this installation has no heads of the demo model; train some with train-head")
            files += shipped
        elif name not in ("auto", "none"):
            files.append(Path(name).expanduser())
    return files


def _shipped(folder: Path) -> list[Path]:
    """Return the heads of a folder without those that are there to be compared with."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.stem.endswith(".full-no-channel"))


def load_of(settings: EdgeSettings, heads: Sequence[Path] = ()) -> Load:
    """Return what the engine is asked to load. Raises CheckpointRefused where a manifest is none."""
    return Load(
        model=settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        max_context=settings.max_context,
        max_sessions=settings.max_sessions,
        kv_tokens=settings.kv_tokens,
        kv_dtype=settings.kv_dtype,
        profile=settings.profile,
        draft_model=settings.edge_draft_model,
        heads=tuple(map(str, heads)),
        reflect=settings.reflect,
        manifest=None if settings.manifest is None else read_manifest(settings.manifest),
        draft_manifest=None if settings.edge_draft_manifest is None else read_manifest(settings.edge_draft_manifest),
    )


def listed_heads(settings: EdgeSettings, load: Load) -> list[HeadFile]:
    """Return the heads that the engine is asked to load. Raises HeadRefused, CheckpointRefused."""
    listed = None
    if load.heads and load.manifest is not None:
        root = root_of(local_folder(load.model, Role.TARGET, revision=load.revision))
        listed = Manifest.of(load.manifest, root, str(settings.manifest))
    return [load_head(Path(path), manifest=listed) for path in load.heads]


def tenants_of(settings: EdgeSettings) -> Tenants:
    """Return the tenants of an edge, with what those may use whose credential does not say."""
    return Tenants(
        Allowance(settings.tenant_positions, settings.tenant_prefill, settings.tenant_sessions, settings.tenant_streams)
    )


class EdgeServer:
    """An edge node as one process with its engine in another: listens, loads, serves, drains."""

    def __init__(self, settings: EdgeSettings, report: Report, *, engine: Sequence[str] = ENGINE) -> None:
        """Prepare; ``report`` gets progress, a line at a time; ``engine`` is the command of the engine's process.

        Raises KeyRefused, HeadRefused, CheckpointRefused, TlsRefused, IdentityFileError.
        """
        self._door = Door(settings, report)
        terms = Terms(
            most=settings.max_sessions,
            least_rate=settings.least_rate,
            keep_s=settings.resume_seconds,
            receipts=receipt_key(settings.receipt_key),
            own_text_only=settings.own_text_only,
            run_ahead=settings.run_ahead,
            thrifty=settings.favour == "edge-time",
            own_draft_tokens=0 if settings.edge_draft_model == "none" else settings.edge_draft_length,
        )
        self._settings, self._report = settings, report
        self._metrics = EdgeMetrics(settings.served_model_name or settings.model)
        # Made once: an engine that comes again loads the same, by the same manifest.
        self._load_asked = load_of(settings, head_files(settings))
        self._granting = Granting(
            listed_heads(settings, self._load_asked),
            semantic=settings.semantic,
            most_loss=settings.most_loss,
            reflects=settings.reflect,
        )
        self._audits = Audits(settings.audit_share, Random(secrets.randbits(64)), self._metrics.meaning)
        sessions = SessionTable(
            terms, self._metrics, granting=self._granting, audits=self._audits, tenants=tenants_of(settings)
        )
        self._service = EdgeService(sessions, step_positions=settings.step_positions)
        watch = Watch(report, self._died, self._loaded, self._service.send_away)
        self._engine = EngineProcess(watch, command=engine)
        self._checks = health.aio.HealthServicer()
        self._health = _HEALTH.NOT_SERVING
        self._watching: set[asyncio.Task[None]] = set()

    async def serve(self, listening: Report) -> None:
        """Serve until SIGTERM or SIGINT; ``listening`` gets the address once sessions are accepted.

        Raises CannotListen, MetricsPortTaken, EngineChanged, HeadRefused, and what loading raises.
        """
        guard = self._door.guard(self._metrics.refused)
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[guard])
        add_verification(server, self._service)
        health_pb2_grpc.add_HealthServicer_to_server(self._checks, server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        await self._set_health(_HEALTH.NOT_SERVING)
        address = self._door.bind(server)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        with self._metrics_served():
            await server.start()
            try:
                if await self._load(stopping):
                    listening(address)
                    await self._until(stopping)
                    await self._drain()
            finally:
                stopping.cancel()
                self._service.close()
                await self._engine.close()
                await server.stop(grace=0.5)

    @contextmanager
    def _metrics_served(self) -> Iterator[None]:
        settings = self._settings
        if settings.metrics_port is None:
            yield
            return
        with serve_metrics(self._metrics, settings.metrics_host, settings.metrics_port) as port:
            self._report(f"metrics on http://{settings.metrics_host}:{port}/metrics")
            yield

    async def _load(self, stopping: asyncio.Task[bool]) -> bool:
        """Say whether the model was loaded before the process was told to stop."""
        self._report(f"loading {self._settings.model}")
        loading = asyncio.create_task(self._engine.start(self._load_asked))
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            await asyncio.wait([loading])
            return False
        loaded = loading.result()
        self._granting.check(loaded.model_digest)
        self._loaded(loaded)
        self._report(
            f"serving {loaded.name}, {loaded.context_tokens} tokens of context, up to {self._settings.max_sessions} "
            f"sessions in {loaded.rows} cache rows of {loaded.row_bytes} bytes, {loaded.numerics}"
        )
        if rules := self._granting.modes[1:]:
            heads = ", ".join(head.tail.name for head in self._granting.heads) or "none"
            self._report(
                f"by meaning: {', '.join(rules)}; heads: {heads}; quality loss up to {self._settings.most_loss:g}"
            )
        return True

    async def _until(self, stopping: asyncio.Task[bool]) -> None:
        """Wait for the order to stop; an engine that cannot go on ends the wait with what it raises."""
        failing = asyncio.create_task(self._engine.failed())
        await asyncio.wait([stopping, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
        failing.cancel()

    async def _drain(self) -> None:
        self._report("draining")
        self._metrics.health = "draining"
        await self._checks.enter_graceful_shutdown()
        if not await self._service.drained(self._settings.drain_seconds, self._settings.drain_to):
            self._report(f"{self._service.sessions.attached} sessions cut off after {self._settings.drain_seconds:g} s")

    # ---- the engine's life ----

    def _loaded(self, loaded: Loaded) -> None:
        self._metrics.model_name = self._settings.served_model_name or loaded.name
        pool, tokenizer = KvPool(loaded.rows), Tokenizer.from_str(loaded.tokenizer_json)
        self._audits.same = lambda key: same_by(self._granting.check_of(key), tokenizer.decode)
        self._service.ready(self._engine, describe(loaded, self._settings), pool)
        self._say(_HEALTH.SERVING)

    def _died(self, error: EngineDied) -> None:
        self._report(str(error))
        self._metrics.engine_died()
        self._service.unready()
        self._say(_HEALTH.NOT_SERVING)

    def _say(self, status: int) -> None:
        task = asyncio.get_running_loop().create_task(self._set_health(status))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _set_health(self, status: int) -> None:
        if self._service.draining:
            return
        self._metrics.health = "serving" if status == _HEALTH.SERVING else "loading"
        for name in ("", SERVICE_NAME):
            await self._checks.set(name, status)


async def serve(settings: EdgeSettings, report: Report, listening: Report) -> None:
    """Serve until SIGTERM or SIGINT; see ``EdgeServer``."""
    await EdgeServer(settings, report).serve(listening)
