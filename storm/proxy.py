"""A TCP proxy between Kafka's clients and its brokers that spoils the network of the clients it is told to.

    async with Proxy([broker.behind_proxy]) as proxy:
        proxy.cut("risk-1.")  # a client whose Kafka client id begins so hears nothing any more
        proxy.heal("risk-1.")

It runs on the caller's event loop, which has to be free: while that computes, no Kafka request passes.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

from mode import Service

HOST: Final = "127.0.0.1"
HELD_BYTES_MAX: Final = 256 * 1024
"""What one direction of a connection holds before its sender has to wait."""
PIECE_S: Final = 0.05
"""A slow network delivers what it can carry in this time at once."""
CLOSE_WITH_RST: Final = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


class Slowness(NamedTuple):
    """How slow each direction of each connection is."""

    delay_s: float
    bytes_per_s: float


class Proxy(Service):
    """Listens on one port of its own for each of `targets` (`host:port`) and forwards.

    Faults are named by a prefix of the client id, which each connection tells with its first request; the
    empty prefix means everybody.
    """

    def __init__(self, targets: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.targets = tuple(targets)
        self.addresses: list[str] = []
        """Where it listens, once started, in the order of the targets."""
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._cuts: set[str] = set()
        self._slow: dict[str, Slowness] = {}

    async def __aenter__(self) -> "Proxy":
        await self.start()
        return self

    async def on_start(self) -> None:
        loop = asyncio.get_running_loop()
        for target in self.targets:
            server = await loop.create_server(lambda target=target: _Link(self, target).client, HOST, 0)  # type: ignore[misc]
            self._servers.append(server)
            self.addresses.append(f"{HOST}:{server.sockets[0].getsockname()[1]}")

    async def on_stop(self) -> None:
        for server in self._servers:
            server.close()
        self.reset("")
        await asyncio.gather(*(server.wait_closed() for server in self._servers))

    def cut(self, prefix: str) -> None:
        """Let nothing pass, without a word to either end: connections stay open, new ones are accepted."""
        self._cuts.add(prefix)
        self._judge_links()

    def slow(self, prefix: str, delay_ms: float, bytes_per_s: float) -> None:
        """Delay each direction of each connection by `delay_ms` and let `bytes_per_s` through."""
        self._slow[prefix] = Slowness(delay_ms / 1000, bytes_per_s)
        self._judge_links()

    def heal(self, prefix: str) -> None:
        """End every cut and slowness whose prefix begins so; what was held is delivered, in order."""
        self._cuts = {each for each in self._cuts if not each.startswith(prefix)}
        self._slow = {each: how for each, how in self._slow.items() if not each.startswith(prefix)}
        self._judge_links()

    def reset(self, prefix: str) -> None:
        """Close the connections there are with an RST at both ends; new ones are welcome."""
        for link in [link for link in self._links if link.client_id.startswith(prefix)]:
            link.reset()

    def judge(self, link: "_Link") -> None:
        """Apply the faults in force to a link."""
        mine = [each for each in self._slow if link.client_id.startswith(each)]
        link.is_cut = any(link.client_id.startswith(each) for each in self._cuts)
        link.slowness = self._slow[max(mine, key=len)] if mine else None
        link.settle()

    def _judge_links(self) -> None:
        for link in list(self._links):
            self.judge(link)

    def made(self, link: "_Link") -> None:
        self._links.add(link)
        self.judge(link)

    def gone(self, link: "_Link") -> None:
        self._links.discard(link)


class _Link:
    """A client's connection and, from its first request on, the one to the broker that is behind it."""

    def __init__(self, proxy: Proxy, target: str) -> None:
        self.client_id = ""
        self.is_known = False
        self.is_cut = False
        self.slowness: Slowness | None = None
        self.client = _End(self)
        self.broker = _End(self)
        self.client.peer, self.broker.peer = self.broker, self.client
        self._proxy = proxy
        self._target = target
        self._beginning = b""
        self._connecting: asyncio.Task[None] | None = None

    def settle(self) -> None:
        for end in (self.client, self.broker):
            end.deliver()

    def made(self, end: "_End") -> None:
        if end is self.client:
            self._proxy.made(self)
        else:
            self.settle()

    def learn(self, data: bytes) -> bytes:
        """Look for the client id in what has come; returns all that, once it is known, and nothing before."""
        self._beginning += data
        client_id = client_id_of(self._beginning)
        if client_id is None:
            return b""
        self.client_id, self.is_known = client_id, True
        self._proxy.judge(self)
        return self._beginning

    def connect(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.broker, host, int(port))
        except OSError as error:
            _log.debug("%s cannot be reached: %r", self._target, error)
            self.reset()

    def lost(self, end: "_End") -> None:
        """One end is closed: so is the other, when it has got what was on its way to it."""
        if end is self.client and self._connecting is not None and self.broker.transport is None:
            self._connecting.cancel()
        self.settle()
        if self.client.is_gone and (self.broker.is_gone or self.broker.transport is None):
            self._proxy.gone(self)

    def reset(self) -> None:
        self.client.reset()
        self.broker.reset()


class _End(asyncio.Protocol):
    """One socket of a link: what comes in here goes out at its peer, at once or when it is allowed to."""

    peer: "_End"

    def __init__(self, link: _Link) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_gone = False
        self._link = link
        self._passes = False
        self._is_congested = False
        self._is_paused = False
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HELD_BYTES_MAX)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        if self._passes:
            cast(asyncio.Transport, self.peer.transport).write(data)
            return
        if not self._link.is_known:
            data = self._link.learn(data)
        self._held.extend(self._scheduled(data))
        self._held_bytes += len(data)
        self.deliver()

    def pause_writing(self) -> None:
        self._is_congested = True
        self.peer.pause_or_resume()

    def resume_writing(self) -> None:
        self._is_congested = False
        self.peer.pause_or_resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True
        self._link.lost(self)

    # -- what the link calls

    def deliver(self) -> None:
        """Send on what is held and due, and see to it that the rest follows."""
        link = self._link
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if link.is_known and not link.is_cut:
            self._send_what_is_due()
        self._passes = (
            link.is_known
            and not link.is_cut
            and link.slowness is None
            and not self._held
            and self.peer.transport is not None
            and not self.peer.is_gone
        )
        if self.is_gone and not self._held and self.peer.transport is not None:
            self.peer.transport.close()
        self.pause_or_resume()

    def pause_or_resume(self) -> None:
        """Read unless the network is cut or what is read would have to wait: then the sender does."""
        wants_pause = self._link.is_cut or self.peer._is_congested or self._held_bytes >= HELD_BYTES_MAX
        if self.transport is None or self.is_gone or wants_pause == self._is_paused:
            return
        self._is_paused = wants_pause
        if wants_pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def reset(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        if self.transport is not None and not self.is_gone:
            connected: socket.socket = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RST)
            self.transport.abort()

    # -- holding back

    def _scheduled(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        """Cut data into pieces, each with the time at which a slow network has carried it over."""
        slowness = self._link.slowness
        if slowness is None:
            if data:
                yield 0.0, data
            return
        size = max(1, int(slowness.bytes_per_s * PIECE_S))
        if not self._held:
            self._free_at = asyncio.get_running_loop().time()
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            self._free_at += len(piece) / slowness.bytes_per_s
            yield self._free_at + slowness.delay_s, piece

    def _send_what_is_due(self) -> None:
        loop = asyncio.get_running_loop()
        is_slow = self._link.slowness is not None
        while self._held:
            due = self._held[0][0]
            if is_slow and due > loop.time():
                self._timer = loop.call_at(due, self.deliver)
                return
            if self.peer.transport is None:
                self._link.connect()
                return
            data = self._held.popleft()[1]
            self._held_bytes -= len(data)
            if not self.peer.is_gone:
                self.peer.transport.write(data)


def client_id_of(request: bytes) -> str | None:
    """The client id in a Kafka request's header, "" when it has none, None while that has not arrived whole.

    Kafka's protocol guide, request header v1 and v2: size, API key, API version, correlation id, client id.
    """
    if len(request) < 14:
        return None
    (length,) = struct.unpack_from(">h", request, 12)
    if length < 0:
        return ""
    name = request[14 : 14 + length]
    return name.decode(errors="replace") if len(name) == length else None
