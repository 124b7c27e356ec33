"""The edge's process: listens, loads, serves, drains."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from airdraft import __version__
from airdraft.core.receipts import KEY_BYTES, ReceiptKey
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Limits
from airdraft.wire.describe import Description
from airdraft.wire.server import SERVER_OPTIONS, SERVICE_NAME, add_verification
from edge_node.config import EdgeSettings
from edge_node.engine.drafter import NewDrafter, load_drafter
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import Target, load_target
from edge_node.service import EdgeService
from edge_node.sessions import SessionTable

Report = Callable[[str], None]
_HEALTH = health_pb2.HealthCheckResponse


class CannotListen(RuntimeError):
    """The address is taken or not this machine's."""


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


def describe_target(target: Target, settings: EdgeSettings) -> Description:
    """Return what this edge says of itself."""
    return Description(
        model_name=settings.served_model_name or target.name,
        model_digest=target.model_digest,
        tokenizer_digest=tokenizer_digest(target.tokenizer_json),
        stop_ids=target.stop_ids,
        vocabulary=target.vocabulary,
        limits=Limits(context_tokens=target.context_tokens),
        numerics=f"fast/{target.dtype}/{target.device}",
        chat_template=target.chat_template or "",
        tokenizer_json=target.tokenizer_json,
        server_version=__version__,
    )


async def serve(settings: EdgeSettings, report: Report, listening: Report) -> None:
    """Serve until SIGTERM or SIGINT; ``report`` gets progress, ``listening`` the address once sessions are accepted.

    Raises CannotListen, KeyRefused, and what loading raises.
    """
    server = grpc.aio.server(options=SERVER_OPTIONS)
    service = EdgeService(
        SessionTable(
            most=settings.max_sessions,
            keep_s=settings.resume_seconds,
            receipts=receipt_key(settings.receipt_key),
            own_text_only=settings.own_text_only,
            kv_tokens=settings.kv_tokens,
            own_draft_tokens=0 if settings.edge_draft_model == "none" else settings.edge_draft_length,
        )
    )
    add_verification(server, service)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await _set_health(checks, _HEALTH.NOT_SERVING)
    address = _bind(server, settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    loading = asyncio.create_task(_load(settings, service, report))
    stopping = asyncio.create_task(stop.wait())
    try:
        with service.running():
            await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                await _set_health(checks, _HEALTH.SERVING)
                listening(address)
                await stopping
                report("draining")
                await checks.enter_graceful_shutdown()
                if not await service.drained(settings.drain_seconds, settings.drain_to):
                    report(f"{service.sessions.attached} sessions cut off after {settings.drain_seconds:g} s")
    finally:
        for task in (loading, stopping):
            task.cancel()
        await asyncio.wait([loading, stopping])
        await server.stop(grace=0.5)


async def _load(settings: EdgeSettings, service: EdgeService, report: Report) -> None:
    report(f"loading {settings.model}")
    target = await asyncio.to_thread(
        load_target,
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        max_context=settings.max_context,
    )
    description = describe_target(target, settings)
    drafter = await asyncio.to_thread(_load_drafter, settings, target)
    service.ready(TargetEngine(target), description, drafter)
    report(
        f"serving {description.model_name}, {target.context_tokens} tokens of context, "
        f"up to {settings.max_sessions} sessions, {description.numerics}"
    )


def _load_drafter(settings: EdgeSettings, target: Target) -> NewDrafter | None:
    if settings.edge_draft_model == "none":
        return None
    return load_drafter(settings.edge_draft_model, target, device=settings.device, dtype=settings.dtype)


def _bind(server: grpc.aio.Server, settings: EdgeSettings) -> str:
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError as error:
        message = f"cannot listen on {settings.host}:{settings.port}; is another edge running? choose another --port"
        raise CannotListen(message) from error
    return f"{settings.host}:{port}"


async def _set_health(checks: health.aio.HealthServicer, status: int) -> None:
    for name in ("", SERVICE_NAME):
        await checks.set(name, status)
