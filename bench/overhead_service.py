"""The risk service as the workers of `bench.overhead` run it: with the standbys asked for, or without."""

import os
import stat

from app.risk import app
from bench.overhead_workers import STANDBYS
from bench.worker import end_with_parent

__all__ = ["app"]

app.conf.table_standby_replicas = int(os.environ[STANDBYS])
if stat.S_ISFIFO(os.fstat(0).st_mode):  # there is no supervisor, whose guard leaves it no standard input
    end_with_parent()
