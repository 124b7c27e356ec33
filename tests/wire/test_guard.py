"""Who is let in to which method: everything that is not allowed is denied, whatever else goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from airdraft.core.callers import EVERYBODY, Caller, Gatekeeper, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.core.types import RefusalCode
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.access import MOST_BEARER_BYTES
from airdraft.wire.guard import NEEDS, Guard, caller

Code = grpc.StatusCode
GOOD, WEAK = "good-key", "weak-key"
TENANT = Caller("ann")
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
OWN = {f"/t.Kinds/{kind}": Scope.DESCRIBE for kind in (*KINDS, "written", "buggy", "sync")}


class Keys:
    """A gatekeeper that knows two keys."""

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        """Return who has this key."""
        if bearer == GOOD:
            return TENANT
        if bearer == WEAK:
            return Caller("bob", frozenset({Scope.HEALTH}))
        raise Unauthenticated("no key of ours")


class Broken:
    """A gatekeeper with a bug, whose error holds what was presented."""

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        """Fail."""
        raise KeyError(bearer)


async def _one(request: object, context: object) -> bytes:
    return caller().tenant.encode()


async def _many(request: object, context: object) -> AsyncIterator[bytes]:
    yield caller().tenant.encode()


async def _joined(requests: AsyncIterator[bytes], context: object) -> bytes:
    return caller().tenant.encode() + b"".join([request async for request in requests])


async def _echo(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
    yield caller().tenant.encode()
    async for request in requests:
        yield request


async def _written(request: object, context: Any) -> None:
    await context.write(caller().tenant.encode())


async def _buggy(request: bytes, context: object) -> bytes:
    raise ValueError("the prompt of somebody else")


def _sync(request: bytes, context: object) -> bytes:
    return caller().tenant.encode()


HANDLERS: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler(_one, pb.DescribeRequest.FromString),
    "unary_stream": grpc.unary_stream_rpc_method_handler(_many, pb.DescribeRequest.FromString),
    "stream_unary": grpc.stream_unary_rpc_method_handler(_joined),
    "stream_stream": grpc.stream_stream_rpc_method_handler(_echo),
    "written": grpc.unary_stream_rpc_method_handler(_written),
    "buggy": grpc.unary_unary_rpc_method_handler(_buggy),
    "sync": grpc.unary_unary_rpc_method_handler(_sync),
    "unlisted": grpc.unary_unary_rpc_method_handler(_one),
}


@asynccontextmanager
async def guarded(
    gatekeeper: Gatekeeper | None, needs: Mapping[str, Scope] = OWN, denied: Callable[[RefusalCode], None] | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the methods above behind a guard."""
    guard = Guard(gatekeeper, needs=needs, hold_s=0.0, denied=denied or (lambda code: None))
    server = grpc.aio.server(interceptors=[guard])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.Kinds", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(grace=0)


async def ask(
    channel: grpc.aio.Channel, method: str, *authorizations: str, message: bytes = b""
) -> tuple[Code, str, list[bytes]]:
    """Send one message to a method of any kind; return the status, its text and the answers."""
    metadata = tuple(("authorization", value) for value in authorizations)
    asked: Any = channel.stream_stream(f"/t.Kinds/{method}")
    call = asked(iter([message]), metadata=metadata, timeout=20)
    answers: list[bytes] = []
    try:
        async for answer in call:
            answers.append(answer)  # noqa: PERF401  # those before an error count too
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or "", answers
    return Code.OK, "", answers


@pytest.mark.parametrize("method", [*KINDS, "written"])
async def test_handlers_of_every_kind_learn_who_calls(method: str) -> None:
    async with guarded(Keys()) as channel:
        expected = [b"ann", b""] if method == "stream_stream" else [b"ann"]
        assert await ask(channel, method, f"Bearer {GOOD}") == (Code.OK, "", expected)
        code, text, answers = await ask(channel, method)
        assert (code, text, answers) == (Code.UNAUTHENTICATED, "no key of ours", [])


@pytest.mark.parametrize(
    "shown",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (GOOD,),
        (f"Basic {GOOD}",),
        (f"Bearer {GOOD} ",),
        (f"Bearer  {GOOD}",),
        (f"Bearer {GOOD}x",),
        (f"Bearer {'x' * (MOST_BEARER_BYTES + 1)}",),
        (f"Bearer {GOOD}", f"Bearer {GOOD}"),
        (f"Bearer {GOOD}", "Bearer other"),
    ],
)
async def test_what_is_no_key_of_ours_is_denied(shown: tuple[str, ...]) -> None:
    said: list[RefusalCode] = []
    async with guarded(Keys(), denied=said.append) as channel:
        assert (await ask(channel, "unary_unary", *shown))[0] is Code.UNAUTHENTICATED
        assert said == [RefusalCode.UNAUTHENTICATED]
        assert (await ask(channel, "unary_unary", f"bearer {GOOD}"))[0] is Code.OK
        assert len(said) == 1


async def test_what_no_table_lists_is_denied_to_everybody() -> None:
    for gatekeeper in (Keys(), None):
        async with guarded(gatekeeper) as channel:
            assert (await ask(channel, "unlisted", f"Bearer {GOOD}"))[0] is Code.PERMISSION_DENIED
    async with guarded(Keys(), {"/t.Kinds/unlisted": Scope.DESCRIBE}) as channel:
        assert (await ask(channel, "unlisted", f"Bearer {GOOD}"))[0] is Code.OK


async def test_only_who_is_let_in_hears_that_a_method_is_not_there() -> None:
    async with guarded(Keys()) as channel:
        assert (await ask(channel, "absent"))[0] is Code.UNAUTHENTICATED
        assert (await ask(channel, "absent", f"Bearer {GOOD}"))[0] is Code.UNIMPLEMENTED


async def test_a_credential_is_good_for_its_scopes_alone() -> None:
    async with guarded(Keys()) as channel:
        code, text, _ = await ask(channel, "unary_unary", f"Bearer {WEAK}")
        assert code is Code.PERMISSION_DENIED
        assert "not good for describe" in text
    async with guarded(Keys(), {"/t.Kinds/unary_unary": Scope.HEALTH}) as channel:
        assert (await ask(channel, "unary_unary", f"Bearer {WEAK}"))[2] == [b"bob"]


async def test_without_a_gatekeeper_everybody_is_everybody() -> None:
    async with guarded(None) as channel:
        assert await ask(channel, "unary_unary") == (Code.OK, "", [EVERYBODY.tenant.encode()])


async def test_a_gatekeeper_with_a_bug_lets_nobody_in_and_writes_no_key(caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(Broken()) as channel:
        code, text, answers = await ask(channel, "stream_stream", f"Bearer {GOOD}")
    assert (code, answers) == (Code.UNAUTHENTICATED, [])
    assert GOOD not in text
    assert "failed with KeyError" in caplog.text
    assert GOOD not in caplog.text


async def test_bytes_of_strangers_reach_no_parser() -> None:
    async with guarded(Keys()) as channel:
        for method in ("unary_unary", "unary_stream"):
            assert (await ask(channel, method, message=b"\xff"))[0] is Code.UNAUTHENTICATED
            assert (await ask(channel, method, f"Bearer {GOOD}", message=b"\xff"))[0] is Code.INVALID_ARGUMENT
            assert (await ask(channel, method, f"Bearer {GOOD}"))[0] is Code.OK


async def test_what_a_bug_says_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(Keys()) as channel:
        code, text, _ = await ask(channel, "buggy", f"Bearer {GOOD}")
    assert code is Code.UNKNOWN
    assert "prompt" not in text
    assert "a bug in /t.Kinds/buggy" in caplog.text


async def test_a_handler_that_would_run_in_a_thread_is_not_served() -> None:
    """A thread would not know the caller, and would take it for everybody."""
    async with guarded(Keys()) as channel:
        assert (await ask(channel, "sync", f"Bearer {GOOD}"))[0] is Code.UNIMPLEMENTED


async def test_callers_at_once_are_not_mixed_up() -> None:
    class Names:
        def admit(self, bearer: str, certificate: bytes) -> Caller:
            return Caller(bearer)

    async with guarded(Names()) as channel, asyncio.TaskGroup() as group:
        names = [f"tenant-{number}" for number in range(50)]
        asked = [group.create_task(ask(channel, "stream_stream", f"Bearer {name}")) for name in names]
    assert [task.result()[2][0].decode() for task in asked] == names


class Context:
    """A call with things that no gRPC client would send."""

    def __init__(self, metadata: list[tuple[str, Any]], known: dict[str, list[bytes]]) -> None:
        self._metadata, self._known = metadata, known
        self.said: Code | None = None

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._known

    async def abort(self, code: Code, text: str) -> None:
        self.said = code
        raise grpc.aio.AbortError


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        (f"Bearer {GOOD}", {}, None),
        (f"Bearer {GOOD}", {"ssl_tls_version": [b"TLSv1.3"]}, None),
        (f"Bearer {GOOD}", {"ssl_tls_version": [b"TLSv1.2"]}, Code.UNAUTHENTICATED),
        (f"Bearer {GOOD}é", {}, Code.UNAUTHENTICATED),
        (f"Bearer {GOOD}".encode(), {}, Code.UNAUTHENTICATED),
    ],
)
async def test_what_no_client_of_grpc_sends(
    value: object, known: dict[str, list[bytes]], expected: Code | None
) -> None:
    async def behind(details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return HANDLERS["unary_unary"]

    class Details(grpc.HandlerCallDetails):
        method = "/t.Kinds/unary_unary"
        invocation_metadata = ()

    handler = await Guard(Keys(), needs=OWN, hold_s=0.0).intercept_service(behind, Details())
    assert handler is not None
    assert handler.unary_unary is not None
    context: Any = Context([("authorization", value)], known)
    if expected is None:
        assert await handler.unary_unary(b"", context) == b"ann"
    else:
        with pytest.raises(grpc.aio.AbortError):
            await handler.unary_unary(b"", context)
        assert context.said is expected


async def test_an_answer_to_a_stranger_is_held_back() -> None:
    """By the loop's clock, which is not earlier than a timer of it."""
    server = grpc.aio.server(interceptors=[Guard(Keys(), needs=OWN, hold_s=0.2)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.Kinds", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        began_s = loop.time()
        assert (await ask(channel, "unary_unary"))[0] is Code.UNAUTHENTICATED
        assert loop.time() - began_s >= 0.2
    await server.stop(grace=0)


def test_the_table_names_every_method_of_the_contract() -> None:
    service = pb.DESCRIPTOR.services_by_name["Verification"]
    own = {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert own == {method for method in NEEDS if method.startswith("/airdraft.")}
