"""How each service is made: the engine's app with this pipeline's settings and topics."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from aiohttp.web import BaseSite, SockSite
from yarl import URL

from app.codecs import contract_measures
from app.config import Settings, for_faust, settings
from app.domain.reference import Known
from app.engine import App, EngineSettings, TopicSpec, use_uvloop
from app.engine.errors import EXIT_CONFIGURATION, Misconfigured
from app.engine.kafka.cluster import Cluster
from app.engine.web.view import attach
from app.errors import PortTakenError, SettingError
from app.membership import Groups, keep_addresses
from app.processes.ports import bare, listening
from app.processes.preflight import raise_open_files
from app.topics import DEAD_LETTERS, INSTRUMENTS, TOPICS, named
from app.topology import SERVICES, WEB_PORTS, Service
from app.units import Words

V = TypeVar("V")


def make_service(service: Service) -> App:
    """Make the app of a service. Its agent lives in `agents.<name>`; a worker imports it at start."""
    name = service.name
    use_uvloop()
    raise_open_files()
    chosen = _settings()
    app = App(
        name,
        settings=EngineSettings(
            bootstrap=chosen.bootstrap,
            dead_letters=DEAD_LETTERS,
            partitions=chosen.partitions,
            replication_factor=chosen.replication_factor,
            transaction_timeout_ms=chosen.transaction_timeout_ms,
            session_timeout_s=chosen.session_timeout_s,
            heartbeat_interval_s=chosen.heartbeat_interval_s,
            batch_records_max=chosen.batch_records_max,
            disk_free_bytes_min=chosen.disk_free_bytes_min,
            stuck_s_max=chosen.stuck_s_max,
            commit_interval_s=service.gathers_s,
        ),
        topics=named(*service.outputs),
        others=TOPICS,
        modules=[f"agents.{name}"],
        datadir=Path(for_faust(chosen.data_dir / name)),
        web_host=chosen.web_host,
        web_bind=bare(chosen.web_host),
        web_port=WEB_PORTS[name],
        web_router_enabled=False,
    )
    addresses = dict.fromkeys(SERVICES, "")
    attach(app, services=addresses, in_words=Words(app.global_table(INSTRUMENTS).values()))
    app.measures(contract_measures)
    app.task(partial(_follow_groups, chosen.bootstrap, addresses))
    web: Any = app.web
    web._transport_handlers = {"tcp": partial(_site, app)}
    return app


def known(app: App, topic: TopicSpec[V]) -> Known[V]:
    """A compacted topic as the domain sees it: always as it is now."""
    table = app.global_table(topic)
    return Known(table.values(), table.unreadable)


def _settings() -> Settings:
    """Faust's command line would show where in its depths a wrong setting was found."""
    try:
        return settings()
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from None


def _site(app: App) -> BaseSite:
    """Where the web server listens: among the first things that a worker starts. Raises Misconfigured."""
    conf, web = app.conf, cast(Any, app.web)
    try:
        found = listening(conf.web_bind, conf.web_port)
    except PortTakenError as error:
        what_to_do = "choose another one with --web-port, or 0 for a free one"
        raise Misconfigured(f"{error}; {what_to_do}") from None
    if conf.web_port == 0:
        conf.web_port = found.getsockname()[1]
        conf.canonical_url = URL(f"http://{conf.web_host}:{conf.web_port}")
    return SockSite(web._runner, found)


async def _follow_groups(bootstrap: str, addresses: dict[str, str]) -> None:
    """Keep the links to other services: they lead to who is in their consumer groups."""
    cluster = Cluster(bootstrap, "web")
    await cluster.start()
    try:
        await keep_addresses(Groups(cluster), addresses)
    finally:
        await cluster.stop()
