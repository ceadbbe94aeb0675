"""The pipeline's own compliance service, on the topics that it names itself."""

from bench.engine_risk import prepare
from bench.worker import options


def main() -> None:
    given = options()
    prepare(given)
    from app.compliance import app  # reads the settings
    from bench.engine import run

    app.conf.web_enabled = False
    run(app, given.partitions)


if __name__ == "__main__":
    main()
