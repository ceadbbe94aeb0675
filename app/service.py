"""How each service is made: the engine's app with this pipeline's settings and topics; what it counts."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from app.config import settings
from app.engine import App, EngineSettings, UnitOfWork, use_uvloop
from app.engine.web import attach
from app.errors import SettingError
from app.topics import DEAD_LETTERS, TOPICS
from app.units import in_words

WEB_PORTS = {"marketdata": 6101, "risk": 6102, "compliance": 6103, "exchange": 6104}


def make_service(name: str, *, commit_interval_s: float = 0.0) -> App:
    """Make the app of service `name`. Its agents live in `agents.<name>`; a worker imports them at start."""
    use_uvloop()
    try:
        chosen = settings()
    except SettingError as error:  # Faust's command line would show where in its depths this was
        raise SystemExit(f"error: {error}") from None
    app = App(
        name,
        settings=EngineSettings(
            bootstrap=chosen.bootstrap,
            dead_letters=DEAD_LETTERS,
            exactly_once=chosen.guarantee == "exactly_once",
            partitions=chosen.partitions,
            replication_factor=chosen.replication_factor,
            transaction_timeout_ms=chosen.transaction_timeout_ms,
            session_timeout_s=chosen.session_timeout_s,
            heartbeat_interval_s=chosen.heartbeat_interval_s,
            batch_records_max=chosen.batch_records_max,
            disk_free_bytes_min=chosen.disk_free_bytes_min,
            stuck_s_max=chosen.stuck_s_max,
            commit_interval_s=commit_interval_s,
        ),
        topics=TOPICS,
        modules=[f"agents.{name}"],
        datadir=chosen.data_dir / name,
        web_host=chosen.web_host,
        web_bind=chosen.web_host,
        web_port=WEB_PORTS[name],
        web_router_enabled=False,
    )
    addresses = {service: f"http://{chosen.web_host}:{port}" for service, port in WEB_PORTS.items()}
    attach(app, services=addresses, in_words=in_words)
    return app


_counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()


def count(work: UnitOfWork, name: str, number: int = 1, **labels: str) -> None:
    """Add to what this worker counts under `name` when the unit of work commits.

    Labels come from a set that is bounded by us: reasons, types, instruments. Never from a client.
    """
    work.after_commit(partial(_add, name, number, tuple(sorted(labels.items()))))


def service_counts() -> Iterator[tuple[str, dict[str, str], int]]:
    """Yield (name, labels, number) of all that this worker has counted since it started, sorted."""
    for (name, labels), number in sorted(_counts.items()):
        yield name, dict(labels), number


def _add(name: str, number: int, labels: tuple[tuple[str, str], ...]) -> None:
    _counts[name, labels] += number
