"""What the agents of a service count, for `/metrics`: refusals, repeats, answers."""

from functools import partial

from prometheus_client import Counter

from app.engine import App, UnitOfWork


class Count:
    """One thing that is counted, in every task of this worker together; `name` ends in `_total`.

    `labels` are the names of what splits it.
    """

    def __init__(self, app: App, name: str, meaning: str, *labels: str) -> None:
        self._labels = labels
        self._counter = Counter(name, meaning, labels, registry=app.metrics)

    def add(self, work: UnitOfWork, number: int = 1, **labels: str) -> None:
        """Count when the unit of work commits. Raises ValueError for labels that it does not have.

        Labels come from a set that is bounded by us: reasons, types, instruments. Never from a client.
        """
        counter = self._counter.labels(**labels) if labels or self._labels else self._counter
        work.after_commit(partial(counter.inc, number))

    def so_far(self, **labels: str) -> int:
        """How often something with these labels has been counted, whatever its others."""
        return int(
            sum(
                sample.value
                for metric in self._counter.collect()
                for sample in metric.samples
                if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
            )
        )
