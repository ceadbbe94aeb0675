"""A steady flow of orders, and of the decisions on them: sent by the clock, read as soon as committed."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

from app.engine.kafka.cluster import partition_of
from bench import job
from bench.gaps import Answer
from bench.kafka import Cluster, Reader
from bench.processes import BenchError

POLL_SECONDS = 0.1
JOIN_SECONDS_MAX = 30.0
FIRST_SEQUENCE = 2
"""`job.changelog_records` leaves every account with one order behind it."""


class Traffic(threading.Thread):
    """Sends so many orders a second, evenly over the partitions, whatever becomes of them (open loop).

    `answers` has every decision read so far by partition, in order of arrival; `count` is how many those are,
    `wrong` how many were made on another state of the account than its orders so far make. Times are
    `time.monotonic()`.
    """

    def __init__(
        self, cluster: Cluster, input_topic: str, output: str, partitions: int, per_second: float
    ) -> None:
        super().__init__(name="traffic", daemon=True)
        self.answers: list[list[Answer]] = [[] for _ in range(partitions)]
        self.count = 0
        self.wrong = 0
        self._input = input_topic
        self._per_second = per_second
        self._producer = cluster.producer(**{"linger.ms": 0})
        self._reader = Reader(cluster, output, partitions, self._take)
        self._orders = orders(partitions)
        self._sent: dict[str, tuple[int, float]] = {}
        self._decided: Counter[str] = Counter()
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> "Traffic":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._closed.set()
        self.join(JOIN_SECONDS_MAX)

    def end(self, quiet_seconds: float, quiet_seconds_missing: float) -> None:
        """Send no more, read on until nothing has come for so long, or for longer while some are missing."""
        self._ended.set()
        count, since = 0, time.monotonic()
        while time.monotonic() - since < (
            quiet_seconds if len(self._decided) == len(self._sent) else quiet_seconds_missing
        ):
            self.check()
            if self.count > count:
                count, since = self.count, time.monotonic()
            time.sleep(POLL_SECONDS)
        self._closed.set()
        self.join(JOIN_SECONDS_MAX)

    def check(self) -> None:
        """Raise what ended the traffic, if anything has."""
        if self._error is not None:
            raise BenchError(f"the traffic broke off: {self._error!r}") from self._error

    @property
    def sent(self) -> int:
        """How many orders have been sent."""
        return len(self._sent)

    def missing(self) -> set[str]:
        """The orders sent that have no decision; to be asked when it is over."""
        return self._sent.keys() - self._decided.keys()

    def duplicated(self) -> set[str]:
        """The orders that have more than one decision; to be asked when it is over."""
        return {order_id for order_id, count in self._decided.items() if count > 1}

    def run(self) -> None:
        try:
            with self._reader:
                self._send_by_the_clock()
                while not self._closed.is_set():
                    self._reader.poll(POLL_SECONDS, records_max=1)
        except Exception as error:
            self._error = error

    def _send_by_the_clock(self) -> None:
        began_at = time.monotonic()
        for number, (partition, order) in enumerate(self._orders):
            while (wait := began_at + number / self._per_second - time.monotonic()) > 0:
                self._reader.poll(wait, records_max=1)
            if self._ended.is_set():
                break
            self._sent[order.order_id] = partition, time.monotonic()
            key = order.account_id.encode()
            self._producer.produce(self._input, job.encode(order), key, on_delivery=_require_delivery)
            self._producer.poll(0)
        self._producer.flush(JOIN_SECONDS_MAX)

    def _take(self, value: bytes) -> None:
        decision = job.decode_decision(value)
        order = decision.order
        partition, sent_at = self._sent[order.order_id]
        self._decided[order.order_id] += 1
        self.count += 1
        self.wrong += decision.orders != order.sequence
        self.answers[partition].append(Answer(time.monotonic(), sent_at))


def orders(partitions: int) -> Iterator[tuple[int, job.Order]]:
    """Orders without end, of `job.ACCOUNTS` accounts in turn, each with the partition of its key."""
    accounts: list[list[str]] = [[] for _ in range(partitions)]
    for name in map(job.account_id, range(job.ACCOUNTS)):
        accounts[partition_of(name.encode(), partitions)].append(name)
    for turn in itertools.count():
        for partition, names in enumerate(accounts):
            account, sequence = names[turn % len(names)], FIRST_SEQUENCE + turn // len(names)
            yield (
                partition,
                job.Order(
                    order_id=f"{account}-{sequence}",
                    account_id=account,
                    sequence=sequence,
                    symbol="BTC-USD",
                    side="buy" if sequence % 2 else "sell",
                    quantity_lots=1 + turn % 1_000,
                    price_ticks=9_300_000 + turn % 10_000,
                    submitted_at_ms=1_700_000_000_000,
                ),
            )


def _require_delivery(error: object, _: object) -> None:
    if error is not None:
        raise BenchError(f"an order could not be sent: {error}")
