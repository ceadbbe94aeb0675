"""Ports that are ours: reserved once, for as long as whoever listens there may have to start again.

A `Port` keeps a bound socket that listens to nothing. A server of ours sets SO_REUSEADDR, as nearly every
server does, and listens on the same port beside it; the kernel gives the port to no client meanwhile. Two
pipelines that start in the same moment could both reserve a port so: the UDP port of the same number, which
nobody can share, decides between them.
"""

import errno
import socket
from typing import Final

from app.errors import PortTakenError, UserError

TRIES_MAX: Final = 100
REACHED_S_MAX: Final = 5.0
TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)


class Port:
    """A port on `host` that nobody else of ours gets until `release`."""

    def __init__(self, host: str, number: int, *held: socket.socket) -> None:
        self.host = host
        self.number = number
        self._held = held

    @property
    def is_taken(self) -> bool:
        """Whether a stranger listens there; to be asked while our own server does not."""
        try:
            _bound(self.host, self.number, socket.SOCK_STREAM).close()
        except OSError as error:
            return error.errno in TAKEN
        return False

    def release(self) -> None:
        for each in self._held:
            each.close()
        self._held = ()


def reserve(host: str, *wanted: int) -> Port:
    """The first of these ports that can be had, else any free one; 0 stands for no wish.

    Raises UserError where no port can be had on this host at all.
    """
    for number in (*filter(None, wanted), *[0] * TRIES_MAX):
        try:
            return _reserved(host, number)
        except PortTakenError:
            continue
    raise UserError(f"no port is free on {host}; `ss -ltn` tells who has them")


def reserve_exactly(host: str, number: int) -> Port:
    """This port, or any free one for 0; raises PortTakenError when somebody else has it."""
    return _reserved(host, number) if number else reserve(host)


def _reserved(host: str, number: int) -> Port:
    """Raises PortTakenError when somebody has the port, UserError when the host is no good."""
    stream = None
    try:
        stream = _bound(host, number, socket.SOCK_STREAM)
        number = int(stream.getsockname()[1])
        return Port(host, number, stream, _bound(host, number, socket.SOCK_DGRAM))
    except OSError as error:
        if stream is not None:
            stream.close()
        if error.errno in TAKEN:
            raise PortTakenError(f"port {number} on {host} can't be used: {error.strerror}") from None
        raise UserError(
            f"nothing can listen on {host}: {error.strerror or error}; use an address of this machine"
        ) from None


def require_host(host: str) -> None:
    """Raises UserError, in one line, where nothing can listen on this address, or nobody reach who does."""
    port = reserve(host)
    try:
        with listening(host, port.number) as server:
            socket.create_connection(server.getsockname()[:2], timeout=REACHED_S_MAX).close()
    except PortTakenError:
        pass  # by a stranger, just now, who listens there
    except OSError as error:
        raise UserError(
            f"nobody can reach what listens on {host}: {error}; bring its network interface up"
        ) from None
    finally:
        port.release()


def listening(host: str, number: int) -> socket.socket:
    """A socket that listens on the port, so that nobody takes it any more; raises PortTakenError."""
    try:
        found = _bound(host, number, socket.SOCK_STREAM)
        found.listen(128)
    except OSError as error:
        raise PortTakenError(f"port {number} on {host} can't be used: {error.strerror or error}") from None
    return found


def _bound(host: str, number: int, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; raises OSError, socket.gaierror for a name that nobody knows among them."""
    family, _, _, _, address = socket.getaddrinfo(bare(host), number, type=kind)[0]
    found = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found


def bare(host: str) -> str:
    """An address as sockets take it: `::1` for the `[::1]` of a URL."""
    return host.removeprefix("[").removesuffix("]")
