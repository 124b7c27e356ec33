"""What tests of the relay start from: a target, and clients that are closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from airdraft.link.relay import Relay
from tests.link.peers import Dial, Peer, Target


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with Target().serves() as target:
        yield target


@pytest.fixture
async def dialled() -> AsyncIterator[list[Peer]]:
    """Clients of this test, closed at its end."""
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        await peer.closes()


@pytest.fixture
def dial(dialled: list[Peer]) -> Dial:
    async def dial(relay: Relay) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", relay.port))
        dialled.append(peer)
        return peer

    return dial
