"""Two workers of the risk service, under the pipeline's supervisor or without one, until SIGTERM."""

import argparse
import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence

from app.engine.kafka.cluster import Cluster
from app.membership import Groups
from app.processes.supervisor import Supervisor
from app.run.members import Worker
from bench.worker import Options, options

STANDBYS = "BENCH_STANDBYS"
WORKERS = 2


class RiskWorker(Worker):
    """A worker of the service as the pipeline starts it, but for the module that the app is in."""

    def command(self) -> list[str]:
        return ["bench.overhead_service" if word == "app.risk" else word for word in super().command()]


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--supervised", type=int, choices=(0, 1), required=True)
    parser.add_argument("--standbys", type=int, required=True)
    asked, rest = parser.parse_known_args()
    given = options(rest)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    cluster = Cluster(given.bootstrap, "supervisor")
    await cluster.start()
    workers = _workers(given, asked.standbys, Groups(cluster))
    await (_supervised if asked.supervised else _bare)(workers, stopped)
    await cluster.stop()


def _workers(given: Options, standbys: int, groups: Groups) -> list[RiskWorker]:
    shared = {
        "KAFKA_BOOTSTRAP": given.bootstrap,
        "PIPELINE_GUARANTEE": given.guarantee,
        "PIPELINE_PARTITIONS": str(given.partitions),
        STANDBYS: str(standbys),
    }
    given.data_dir.mkdir()
    return [RiskWorker("risk", number, given.data_dir, groups, shared) for number in range(1, WORKERS + 1)]


async def _supervised(workers: Sequence[RiskWorker], stopped: asyncio.Event) -> None:
    supervisor = Supervisor()
    await supervisor.start()
    await supervisor.add(*workers)
    await stopped.wait()
    await supervisor.stop()


async def _bare(workers: Sequence[RiskWorker], stopped: asyncio.Event) -> None:
    """The same processes, of which nobody takes care; the first to end by itself ends this one."""
    processes = [
        await asyncio.create_subprocess_exec(
            *worker.command(), stdin=subprocess.PIPE, env=worker.environment()
        )
        for worker in workers
    ]
    ends = [asyncio.create_task(process.wait()) for process in processes]
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait([stop, *ends], return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        sys.exit(1)
    for process in processes:
        process.terminate()
    await asyncio.wait(ends)


if __name__ == "__main__":
    asyncio.run(main())
