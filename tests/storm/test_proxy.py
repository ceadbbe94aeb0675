"""The proxy between Kafka's clients and a real broker: it passes everything on, until it is told not to."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from storm.proxy import Proxy, client_id_of
from tests.engine.waiting import until

SILENCE_S = 0.5
"""How long nothing is waited for, where an answer takes a few milliseconds."""


def a_request(client_id: str | None, payload: bytes = b"") -> bytes:
    """A Kafka request as far as its header goes."""
    name = b"\xff\xff" if client_id is None else struct.pack(">h", len(client_id)) + client_id.encode()
    body = struct.pack(">hhi", 3, 1, 7) + name + payload
    return struct.pack(">i", len(body)) + body


class Client:
    """A Kafka client with one connection, made when it is needed."""

    def __init__(self, address: str, client_id: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._client_id = client_id
        self._connection: Any = None

    async def answered(self) -> bool:
        if self._connection is None or not self._connection.connected():
            self._connection = await create_conn(
                self._host, int(self._port), client_id=self._client_id, request_timeout_ms=30_000
            )
        return bool((await self._connection.send(MetadataRequest([]))).brokers)

    async def hears_nothing(self) -> "asyncio.Task[bool]":
        """Ask, and make sure that no answer comes; returns the question, which goes on."""
        asked = asyncio.create_task(self.answered())
        done, _ = await asyncio.wait([asked], timeout=SILENCE_S)
        assert not done, asked.exception() or "there is an answer"
        return asked

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@asynccontextmanager
async def client(proxy: Proxy, client_id: str) -> AsyncIterator[Client]:
    made = Client(proxy.addresses[0], client_id)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def proxy(bootstrap: str) -> AsyncIterator[Proxy]:
    async with Proxy([bootstrap]) as proxy:
        yield proxy
        await proxy.stop()


class Echo(asyncio.Protocol):
    """A server that keeps what it gets and sends it back."""

    def __init__(self, kept: bytearray) -> None:
        self._kept = kept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        self._transport.write(data)


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Proxy, bytearray]]:
    """A proxy in front of a server that echoes, and what that server has got."""
    kept = bytearray()
    server = await asyncio.get_running_loop().create_server(lambda: Echo(kept), "127.0.0.1", 0)
    async with Proxy([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]) as proxy:
        try:
            yield proxy, kept
        finally:
            await proxy.stop()
            server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.addresses[0].partition(":")
    return await asyncio.open_connection(host, int(port))


async def test_a_client_does_not_notice_a_proxy_that_has_nothing_to_do(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as risk:
        assert await risk.answered()


async def test_a_cut_is_silence_and_what_it_held_arrives_when_it_is_healed(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as risk:
        await risk.answered()
        proxy.cut("risk-1.")
        asked = await risk.hears_nothing()
        proxy.heal("risk-1.")
        assert await asked
        assert await risk.answered()


@pytest.mark.parametrize("prefix", ["risk-1.", ""])
async def test_a_new_connection_into_a_cut_is_accepted_and_hears_nothing(proxy: Proxy, prefix: str) -> None:
    proxy.cut(prefix)
    async with client(proxy, "risk-1.abc.1") as risk:
        asked = await risk.hears_nothing()
        proxy.heal(prefix)
        assert await asked


async def test_only_the_clients_named_are_cut(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as first, client(proxy, "risk-10.abc.1") as tenth:
        await first.answered()
        await tenth.answered()
        proxy.cut("risk-1.")
        asked = await first.hears_nothing()
        assert await tenth.answered()
        async with client(proxy, "risk-2.abc.1") as another:
            assert await another.answered()
        proxy.heal("risk-2.")
        await first.hears_nothing()
        proxy.heal("")
        assert await asked


async def test_the_empty_prefix_is_everybody(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as risk, client(proxy, "feed") as feed:
        await risk.answered()
        await feed.answered()
        proxy.cut("")
        asked = [await risk.hears_nothing(), await feed.hears_nothing()]
        proxy.heal("")
        assert all(await asyncio.gather(*asked))


async def test_a_reset_is_noticed_and_a_new_connection_is_welcome(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as risk, client(proxy, "risk-2.abc.1") as other:
        await risk.answered()
        await other.answered()
        proxy.cut("risk-1.")
        asked = await risk.hears_nothing()
        proxy.reset("risk-1.")
        with pytest.raises(KafkaError):
            await asked
        proxy.heal("")
        assert await risk.answered()
        assert await other.answered()


async def test_a_reset_is_an_rst_at_both_ends(bootstrap: str) -> None:
    reset_by_peer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while await reader.read(100):
                pass
            return
        reset_by_peer.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with Proxy([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]) as proxy:
        reader, writer = await connect(proxy)
        writer.write(a_request("risk-1.abc.1"))
        await until(lambda: any(link.broker.transport for link in proxy._links))
        proxy.reset("risk-1.")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await reset_by_peer.wait()
        writer.close()
        await proxy.stop()
    server.close()


async def test_slow_is_slow_in_each_direction(proxy: Proxy) -> None:
    async with client(proxy, "risk-1.abc.1") as risk, client(proxy, "risk-2.abc.1") as other:
        await risk.answered()
        await other.answered()
        proxy.slow("risk-1.", delay_ms=300, bytes_per_s=1e6)
        assert await took_s(risk.answered) >= 0.6
        assert await took_s(other.answered) < 0.6
        proxy.heal("risk-1.")
        assert await took_s(risk.answered) < 0.6


async def took_s(what: Callable[[], Awaitable[bool]]) -> float:
    started = time.monotonic()
    assert await what()
    return time.monotonic() - started


async def test_a_narrow_network_carries_so_many_bytes_and_healing_lets_the_rest_pass() -> None:
    async with echo() as (proxy, kept):
        proxy.slow("risk-1.", delay_ms=0, bytes_per_s=20_000)
        reader, writer = await connect(proxy)
        started = time.monotonic()
        request = a_request("risk-1.abc.1", bytes(range(256)) * 400)
        writer.write(request)
        await until(lambda: len(kept) > 10_000)
        assert time.monotonic() - started > 10_000 / 20_000
        assert len(kept) <= (time.monotonic() - started) * 20_000 + 2_000
        proxy.heal("risk-1.")
        assert await reader.readexactly(len(request)) == request
        writer.close()


async def test_a_cut_into_a_slow_network_holds_what_was_under_way() -> None:
    async with echo() as (proxy, kept):
        proxy.slow("risk-1.", delay_ms=200, bytes_per_s=100_000)
        reader, writer = await connect(proxy)
        request = a_request("risk-1.abc.1", bytes(50_000))
        writer.write(request)
        await until(lambda: len(kept) > 0)
        proxy.cut("risk-1.")
        arrived = len(kept)
        await asyncio.sleep(SILENCE_S)
        assert len(kept) == arrived < len(request)
        proxy.heal("risk-1.")
        assert await reader.readexactly(len(request)) == request
        writer.close()


async def test_many_megabytes_pass_unchanged_through_cuts_in_both_directions() -> None:
    async with echo() as (proxy, _):
        reader, writer = await connect(proxy)
        request = a_request("risk-1.abc.1", bytes(range(251)) * 80_000)

        async def spoil() -> None:
            while True:
                proxy.cut("risk-1.")
                await asyncio.sleep(0.02)
                proxy.heal("risk-1.")
                proxy.slow("risk-1.", delay_ms=1, bytes_per_s=1e9)
                await asyncio.sleep(0.02)

        spoiling = asyncio.create_task(spoil())
        writer.write(request)
        assert await reader.readexactly(len(request)) == request
        spoiling.cancel()
        writer.close()


async def test_a_sender_waits_when_nobody_reads() -> None:
    """What the proxy holds is bounded: the rest stays with its sender."""
    async with echo() as (proxy, kept):
        proxy.cut("risk-1.")
        _, writer = await connect(proxy)
        writer.write(a_request("risk-1.abc.1", bytes(64 * 1024 * 1024)))
        await asyncio.sleep(SILENCE_S)
        assert not kept
        assert writer.transport.get_write_buffer_size() > 32 * 1024 * 1024
        writer.transport.abort()


async def test_an_end_of_one_side_is_the_end_of_the_other() -> None:
    async with echo() as (proxy, _):
        reader, writer = await connect(proxy)
        writer.write(a_request("risk-1.abc.1"))
        await reader.read(4)
        link = next(iter(proxy._links))
        writer.close()
        await until(lambda: link.broker.is_gone)
        reader, writer = await connect(proxy)
        writer.write(a_request("risk-1.abc.1"))
        await reader.read(4)
        link = next(iter(proxy._links))
        assert link.broker.transport is not None
        link.broker.transport.close()
        while await reader.read(100):
            pass
        writer.close()
        await until(lambda: not proxy._links)


async def test_a_broker_that_is_away_is_a_reset_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as away:
        port = away.getsockname()[1]
    async with Proxy([f"127.0.0.1:{port}"]) as proxy:
        reader, writer = await connect(proxy)
        writer.write(a_request("risk-1.abc.1"))
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        await until(lambda: not proxy._links)
        await proxy.stop()


@pytest.mark.parametrize(("client_id", "expected"), [("risk-1.abc.1", "risk-1.abc.1"), ("", ""), (None, "")])
def test_the_client_id_is_known_as_soon_as_it_is_there_whole(client_id: str | None, expected: str) -> None:
    request = a_request(client_id)
    assert client_id_of(request) == client_id_of(request + b"more") == expected
    assert [client_id_of(request[:end]) for end in range(len(request))] == [None] * len(request)
