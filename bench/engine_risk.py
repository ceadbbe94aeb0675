"""The pipeline's own risk service, on the topics that it names itself."""

import os

from bench.worker import Options, options


def prepare(given: Options) -> None:
    """Set what the pipeline's services read when they are imported."""
    os.environ |= {
        "KAFKA_BOOTSTRAP": given.bootstrap,
        "PIPELINE_DATA_DIR": str(given.data_dir),
        "PIPELINE_PARTITIONS": str(given.partitions),
    }


def main() -> None:
    given = options()
    prepare(given)
    from app.risk import app  # reads the settings
    from bench.engine import run

    app.conf.web_enabled = False
    run(app, given.partitions)


if __name__ == "__main__":
    main()
