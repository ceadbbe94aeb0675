"""How each service is made: the engine's app with this pipeline's settings and topics."""

from app.codecs import contract_measures
from app.config import settings
from app.engine import App, EngineSettings, use_uvloop
from app.engine.web import attach
from app.errors import SettingError
from app.topics import DEAD_LETTERS, TOPICS
from app.units import in_words

WEB_PORTS = {"marketdata": 6101, "risk": 6102, "compliance": 6103, "exchange": 6104, "refdata": 6105}


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
    app.measures(contract_measures)
    return app
