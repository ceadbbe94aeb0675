"""Exactly-once micro-batches for Faust: tasks, tables in RocksDB, one Kafka transaction a batch.

Nothing of the trading domain is known here. Start with `App`, `TopicSpec` and `unit_of_work`; docs/engine.md
shows a whole service.
"""

from app.engine.app import App, use_uvloop
from app.engine.core.settings import EngineSettings
from app.engine.core.task import Task
from app.engine.core.work import Batch, Batches, Record, UnitOfWork, unit_of_work
from app.engine.errors import AnswerFailed, Fenced, NewerRelease, Poison, Transient, WrongPartition
from app.engine.kafka.cluster import RawRecord
from app.engine.shards import KEY_SHARDS, shard_of
from app.engine.state.global_table import GlobalTable
from app.engine.state.table import Table, TaskTable, ValueCodec
from app.engine.topics import BROKER_CLOCK, COMPACTED, KEPT, Codec, TopicSpec

__all__ = [
    "BROKER_CLOCK",
    "COMPACTED",
    "KEPT",
    "KEY_SHARDS",
    "AnswerFailed",
    "App",
    "Batch",
    "Batches",
    "Codec",
    "EngineSettings",
    "Fenced",
    "GlobalTable",
    "NewerRelease",
    "Poison",
    "RawRecord",
    "Record",
    "Table",
    "Task",
    "TaskTable",
    "TopicSpec",
    "Transient",
    "UnitOfWork",
    "ValueCodec",
    "WrongPartition",
    "shard_of",
    "unit_of_work",
    "use_uvloop",
]
