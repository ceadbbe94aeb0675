"""Faust's worker process, which tells the truth at its start, and at its end what a person has to do."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import faust
from faust.exceptions import AlreadyConfiguredWarning

from app.engine.errors import EXIT_CONFIGURATION, Misconfigured

DATADIR_DEFAULT = "{conf.name}-data"
"""What the `faust` command passes for `--datadir` when nobody has given one."""


def take_datadir(app: Any) -> None:
    """Use the directory of `faust --datadir`, which is known only after the app is made."""
    told = app.conf.env.get("F_DATADIR")
    if told and told != DATADIR_DEFAULT:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)  # nothing has used it yet
            app.conf.datadir = Path(told)


def _is_news(record: logging.LogRecord) -> bool:
    """What a person has to set right is said once, in one line at the end, and without a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], Misconfigured))


class Worker(faust.Worker):
    """Knows its directory before it shows its banner; exit status EXIT_CONFIGURATION for Misconfigured."""

    def __init__(self, app: Any, *services: Any, **options: Any) -> None:
        take_datadir(app)
        super().__init__(app, *services, **options)
        app.announce = self.announce

    def announce(self, line: str) -> None:
        """Say something whatever the log level is."""
        self._say(line, flush=True)

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        super().on_setup_root_logger(logger, level)
        for handler in logger.handlers:
            handler.addFilter(_is_news)

    def execute_from_commandline(self) -> NoReturn:
        try:
            super().execute_from_commandline()
        except SystemExit:
            error = self._misconfigured()
            if error is None:
                raise
        print(f"error: {error}", file=sys.__stderr__, flush=True)
        raise SystemExit(EXIT_CONFIGURATION)

    def _misconfigured(self) -> Misconfigured | None:
        """What has ended this worker, if it was that."""
        starting = self._starting_fut
        failed = None
        if starting is not None and starting.done() and not starting.cancelled():
            failed = starting.exception()
        found = [each for each in (failed, self.crash_reason, self.app.crash_reason) if each is not None]
        return next((each for each in found if isinstance(each, Misconfigured)), None)
