"""`python -m bench.engine_service NAME …`: a service of the pipeline, on the topics that it names itself."""

import os
import sys
from importlib import import_module

from bench.worker import options


def main() -> None:
    service, *rest = sys.argv[1:]
    given = options(rest)
    os.environ |= {  # before the settings are read
        "KAFKA_BOOTSTRAP": given.bootstrap,
        "PIPELINE_DATA_DIR": str(given.data_dir),
        "PIPELINE_PARTITIONS": str(given.partitions),
    }
    app = import_module(f"app.{service}").app
    from bench.engine import run

    app.conf.web_enabled = False
    run(app, given.partitions)


if __name__ == "__main__":
    main()
