"""The door of a server: who calls is known before any handler runs, and what no rule allows is denied.

One interceptor stands before all services of a server, those of libraries too. What is not in ``NEEDS`` is denied to
everybody, so that a method that somebody adds is closed until somebody says what it needs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from airdraft.core.callers import EVERYBODY, Caller, Gatekeeper, Scope
from airdraft.core.errors import Forbidden, SpecError, Unauthenticated
from airdraft.core.types import RefusalCode
from airdraft.wire.access import MOST_BEARER_BYTES
from airdraft.wire.status import status_of

NEEDS: Mapping[str, Scope] = {
    "/airdraft.v1.Verification/Describe": Scope.DESCRIBE,
    "/airdraft.v1.Verification/Generate": Scope.GENERATE,
    "/grpc.health.v1.Health/Check": Scope.HEALTH,
    "/grpc.health.v1.Health/List": Scope.HEALTH,
    "/grpc.health.v1.Health/Watch": Scope.HEALTH,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Scope.REFLECT,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Scope.REFLECT,
}
"""What a caller's credential must be good for, by the full name of a method."""

HOLD_S = 0.3
"""How long an answer to a stranger is held back, in the stream's own slot: guessing is slow."""

NO_METHOD = "this server has no such method"

_SCHEME = "bearer"
_LOG = logging.getLogger(__name__)
_CALLER: ContextVar[Caller] = ContextVar("caller", default=EVERYBODY)

_Context = grpc.aio.ServicerContext[Any, Any]
_Behaviour = Callable[[Any, _Context], Any]


def caller() -> Caller:
    """Return who makes the call that the running handler answers; EVERYBODY where no guard asks."""
    return _CALLER.get()


class Guard(grpc.aio.ServerInterceptor):
    """Lets callers in by what they present, or everybody where there is no gatekeeper."""

    def __init__(
        self,
        gatekeeper: Gatekeeper | None,
        *,
        needs: Mapping[str, Scope] = NEEDS,
        hold_s: float = HOLD_S,
        denied: Callable[[RefusalCode], None] = lambda code: None,
    ) -> None:
        """Guard the methods in ``needs``; ``denied`` hears of each denial."""
        self._gatekeeper, self._needs, self._hold_s, self._denied = gatekeeper, needs, hold_s, denied

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that asks who calls and then does what the one behind it does."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._nowhere)
        return self._guarded(method, handler)

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        inner: Any
        if handler.request_streaming:
            inner = handler.stream_stream if handler.response_streaming else handler.stream_unary
            decode = None
        else:
            inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
            decode = handler.request_deserializer or bytes

        async def behaviour(request: Any, context: _Context) -> Any:
            _CALLER.set(await self._let_in(method, context))
            try:
                # A single message is read by us, after its sender is known: a stranger's bytes reach no parser.
                return await _answered(inner, request if decode is None else decode(request), context)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no message of this method")
            except grpc.aio.BaseError:
                raise
            except Exception:  # a bug; its text may tell of others, so that it stays in the log
                _LOG.exception("a bug in %s", method)
                await context.abort(grpc.StatusCode.UNKNOWN, "a bug of this server; its log says more")

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        read = handler.request_deserializer if decode is None else None
        return make(behaviour, read, handler.response_serializer)

    async def _nowhere(self, requests: object, context: _Context) -> None:
        """Answer a call of a method that is not served: strangers are not told even that."""
        await self._admitted(context)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_METHOD)

    async def _let_in(self, method: str, context: _Context) -> Caller:
        """Return who may make this call; ends the call of anybody else."""
        known = await self._admitted(context)
        scope = self._needs.get(method)
        if scope is None:
            await self._deny(context, Forbidden("nobody may call this method here"))
        if scope not in known.scopes:
            await self._deny(context, Forbidden(f"this credential is not good for {scope}; ask for one that is"))
        return known

    async def _admitted(self, context: _Context) -> Caller:
        if self._gatekeeper is None:
            return EVERYBODY
        try:
            return self._gatekeeper.admit(_bearer(context), _certificate(context))
        except SpecError as error:
            await self._deny(context, error)
        except Exception as error:
            # Its text and its frames may hold what was presented: neither is written down.
            _LOG.error("the gatekeeper failed with %s; the call is denied", type(error).__name__)
            await self._deny(context, Unauthenticated("who calls could not be told; try again later"))

    async def _deny(self, context: _Context, error: SpecError) -> NoReturn:
        assert error.code is not None
        self._denied(error.code)
        await asyncio.sleep(self._hold_s)
        await context.abort(status_of(error), error.message)


async def _answered(inner: _Behaviour | None, request: Any, context: _Context) -> Any:
    """Let a handler answer: a coroutine function, or an asynchronous generator of messages.

    Any other would run in a thread, which knows no caller. It is not served; the stubs of methods that a service leaves
    out are of that kind.
    """
    if inspect.isasyncgenfunction(inner):
        answers: AsyncGenerator[Any, None] = inner(request, context)
        async with aclosing(answers):
            async for answer in answers:
                await context.write(answer)
        return None
    if not inspect.iscoroutinefunction(inner):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_METHOD)
    return await inner(request, context)


def _bearer(context: _Context) -> str:
    """Return what follows ``Bearer``; empty where nothing was presented. Raises Unauthenticated."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not found:
        return ""
    if len(found) > 1:
        raise Unauthenticated("more than one authorization was presented; present one")
    text = found[0] if isinstance(found[0], str) else ""
    scheme, _, bearer = text.partition(" ")
    if scheme.lower() != _SCHEME or not bearer.isascii() or not 0 < len(bearer) <= MOST_BEARER_BYTES or " " in bearer:
        raise Unauthenticated("present a key or a token as: authorization: Bearer …")
    return bearer


def _certificate(context: _Context) -> bytes:
    """Return the client's certificate; empty over plain text, and where it showed none. Raises Unauthenticated."""
    known: Mapping[str, Any] = context.auth_context()  # lists of values
    version = known.get("ssl_tls_version")
    if version and bytes(version[0]) != b"TLSv1.3":
        raise Unauthenticated("this server speaks TLS 1.3 alone")
    found = known.get("x509_pem_cert")
    return bytes(found[0]) if found else b""
