"""The pipeline's processes: workers of the services, the venue, the feed. What each is started with."""

import asyncio
import hashlib
import logging
import platform
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from app.config import child_environment, for_faust, settings
from app.membership import Groups
from app.processes.last_words import EXTERNAL, signal_of
from app.processes.ports import Port, reserve
from app.processes.supervisor import Child, Restarts
from app.topology import WEB_PORTS

log = logging.getLogger(__name__)

FEED_COUNTED_S: Final = 1.0
"""After the death of a feed that has to send so many orders: by then those that it sent are counted."""

UP_POLL_S: Final = 0.05

VENUE_HOST: Final = "127.0.0.1"


class Server(Child):
    """A child that listens on a port of ours: the same one in all its lives, unless a stranger takes it."""

    def __init__(self, *args: Any, host: str, usual_port: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host = host
        self._reserved: Port | None = None
        self._usual_port = usual_port

    @property
    def port(self) -> int:
        """Reserved when it is first asked for."""
        if self._reserved is None:
            self._reserved = reserve(self._host, self._usual_port)
        return self._reserved.number

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{self._host}:{self.port}"

    async def until_up(self) -> None:
        """Wait until it can be reached, however often it has to be started."""
        while not self.should_stop:
            try:
                _, writer = await asyncio.open_connection(self._host, self.port)
            except OSError:
                await asyncio.sleep(UP_POLL_S)
            else:
                writer.close()
                return

    def is_final(self, status: int) -> bool:
        """A port that a stranger has taken is no wrong configuration."""
        return super().is_final(status) and not self._is_port_taken

    def keep_or_change_port(self) -> None:
        """Before each start: a port that a stranger has taken meanwhile is given up for another one."""
        if self._reserved is not None and self._is_port_taken:
            log.warning("%s: somebody else listens on its port %s: it gets another one", self.name, self.port)
            self._reserved.release()
            self._reserved = None

    @property
    def _is_port_taken(self) -> bool:
        return self._reserved is not None and self._reserved.is_taken

    async def on_stop(self) -> None:
        await super().on_stop()
        if self._reserved is not None:
            self._reserved.release()


class Worker(Server):
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
        *,
        usual_port: int | None = None,
        **kwargs: Any,
    ) -> None:
        if usual_port is None:
            usual_port = WEB_PORTS[service] if number == 1 else 0
        name, host = f"{service}-{number}", settings().web_host
        super().__init__(name, data_dir / "logs", host=host, usual_port=usual_port, **kwargs)
        self.service = service
        self.data_dir = data_dir / self.name
        self._groups = groups
        self._shared = shared
        self._client_prefix = client_prefix(self.name, data_dir)
        self._client_id = ""

    def command(self) -> list[str]:
        self.keep_or_change_port()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._client_id = f"{self._client_prefix}{secrets.token_hex(4)}"
        return [
            *(
                sys.executable,
                "-m",
                self.program,
                "-A",
                f"app.{self.service}",
                "--datadir",
                for_faust(self.data_dir),
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
    place = hashlib.sha256(f"{platform.node()}:{data_dir.resolve()}".encode()).hexdigest()[:12]
    return f"{name}.{place}."


INSTRUMENTS = Path(__file__).resolve().parents[2] / "feed" / "demo.json"
"""What the venue lists."""


class Venue(Server):
    """The simulated exchange; its ledger is `<data_dir>/venue`.

    It keeps its address, which its clients were told at their start: it waits for a port that was taken.
    """

    def __init__(self, data_dir: Path, **kwargs: Any) -> None:
        usual_port = urlsplit(settings().venue_url).port or 0
        super().__init__("venue", data_dir / "logs", host=VENUE_HOST, usual_port=usual_port, **kwargs)
        self.data_dir = data_dir / "venue"
        self.token = secrets.token_urlsafe(32)

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
    """The market and the accounts; kept alive until it has sent all orders, without a count for ever.

    `sent` tells how many orders of this feed are in the log: one that was killed goes on with the rest.
    """

    def __init__(
        self,
        data_dir: Path,
        shared: Mapping[str, str],
        *,
        orders: int | None,
        speed: str,
        seed: int | None,
        accounts: int | None = None,
        requests: int | None = None,
        sent: Callable[[], int] = lambda: 0,
        **kwargs: Any,
    ) -> None:
        if orders is not None:
            kwargs = {"restarts": Restarts(pause_s_min=FEED_COUNTED_S)} | kwargs
        super().__init__("feed", data_dir / "logs", **kwargs)
        self._shared = shared
        self._accounts = accounts
        self._requests = requests
        self._orders = orders
        self._speed = speed
        self._seed = seed
        self._sent = sent

    @property
    def _left(self) -> int | None:
        return None if self._orders is None else self._orders - self._sent()

    def command(self) -> list[str]:
        left = self._left
        if left is not None and left <= 0:  # it was killed after its last order
            return [sys.executable, "-I", "-c", ""]
        return [
            *(sys.executable, "-m", "feed", "--resume", "--speed", self._speed),
            *("--orders", str(left or "unlimited")),
            *(() if self._seed is None else ("--seed", str(self._seed))),
            *(() if self._accounts is None else ("--accounts", str(self._accounts))),
            *(() if self._requests is None else ("--requests", str(self._requests))),
        ]

    def environment(self) -> dict[str, str]:
        return child_environment(**self._shared)

    def is_done(self, status: int) -> bool:
        return status == 0 or (self._orders is not None and signal_of(status) not in EXTERNAL)
