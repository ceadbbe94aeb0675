"""The pipeline's processes: workers of the services, the venue, the feed. What each is started with."""

import contextlib
import hashlib
import platform
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.config import child_environment, settings
from app.membership import Groups
from app.service import WEB_PORTS
from app.supervisor import Child


class Worker(Child):
    """Worker `number` of a service: `faust -A app.<service> worker`, with its own directory and port."""

    program = "faust"
    """The module that is run; one that instruments the worker takes the same arguments."""

    def __init__(
        self,
        service: str,
        number: int,
        data_dir: Path,
        groups: Groups,
        shared: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        super().__init__(f"{service}-{number}", data_dir / "logs", **kwargs)
        self.service = service
        self.data_dir = data_dir / self.name
        self.port = 0
        self._usual_port = WEB_PORTS[service] if number == 1 else 0
        self._groups = groups
        self._shared = shared
        self._client_prefix = client_prefix(self.name, data_dir)
        self._client_id = ""

    @property
    def url(self) -> str:
        """Where its web view is."""
        return f"http://{settings().web_host}:{self.port}"

    def command(self) -> list[str]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port(self.port, self._usual_port)
        self._client_id = f"{self._client_prefix}{secrets.token_hex(4)}"
        return [
            *(
                sys.executable,
                "-m",
                self.program,
                "-A",
                f"app.{self.service}",
                "--datadir",
                str(self.data_dir),
            ),
            *("worker", "-l", "info", "--web-port", str(self.port)),
        ]

    def environment(self) -> dict[str, str]:
        return child_environment(**self._shared, BROKER_CLIENT_ID=self._client_id)

    async def after_death(self) -> None:
        await self.remove_former_members()

    async def remove_former_members(self) -> None:
        """Put this worker's earlier lives out of its group, those under an earlier supervisor included."""
        await self._groups.remove(self.service, self.is_former)

    def is_former(self, client_id: str) -> bool:
        """Whether this is an earlier life of this worker; from the moment of its death that one is, too."""
        is_current = self.pid is not None and client_id == self._client_id
        return client_id.startswith(self._client_prefix) and not is_current


def client_prefix(name: str, data_dir: Path) -> str:
    """The same for each start of the worker `name` on this data directory, and for no other worker."""
    place = hashlib.sha256(f"{platform.node()}:{data_dir.absolute()}".encode()).hexdigest()[:12]
    return f"{name}.{place}."


INSTRUMENTS = Path(__file__).resolve().parents[1] / "feed" / "demo.json"
"""What the venue lists."""


class Venue(Child):
    """The simulated exchange, on one address for its whole life; its ledger is `<data_dir>/venue`."""

    def __init__(self, data_dir: Path, **kwargs: Any) -> None:
        super().__init__("venue", data_dir / "logs", **kwargs)
        self.data_dir = data_dir / "venue"
        self.port = free_port(urlsplit(settings().venue_url).port or 0)
        self.token = secrets.token_urlsafe(32)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ledger(self) -> Path:
        return self.data_dir / "ledger.sqlite"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "venue", "--port", str(self.port)),
            *("--data-dir", str(self.data_dir), "--instruments", str(INSTRUMENTS)),
        ]

    def environment(self) -> dict[str, str]:
        return child_environment(VENUE_TOKEN=self.token)


class Feed(Child):
    """The market and the accounts. Without a count of orders it goes on for ever and is kept alive."""

    def __init__(
        self,
        data_dir: Path,
        shared: Mapping[str, str],
        *,
        orders: int | None,
        speed: str,
        seed: int | None,
        accounts: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("feed", data_dir / "logs", **kwargs)
        self._shared = shared
        self._accounts = accounts
        self._orders = orders
        self._speed = speed
        self._seed = seed

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "feed", "--resume", "--speed", self._speed),
            *("--orders", str(self._orders or "unlimited")),
            *(() if self._seed is None else ("--seed", str(self._seed))),
            *(() if self._accounts is None else ("--accounts", str(self._accounts))),
        ]

    def environment(self) -> dict[str, str]:
        return child_environment(**self._shared)

    def is_done(self, status: int) -> bool:
        return status == 0 or self._orders is not None


def free_port(*wanted: int) -> int:
    """The first of these ports that nobody listens on, else any free one; 0 stands for no wish."""
    for port in filter(None, wanted):
        with contextlib.suppress(OSError):
            return _bound(port)
    return _bound(0)


def _bound(port: int) -> int:
    """The port that a socket can be bound to just now; raises OSError when it can't."""
    family, kind, _, _, address = socket.getaddrinfo(settings().web_host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
