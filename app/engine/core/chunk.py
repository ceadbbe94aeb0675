"""What one transaction takes in: consecutive records of a task's inputs."""

from app.engine.kafka.cluster import TP, RawRecord
from app.engine.topics import TopicSpec

Item = tuple[TopicSpec, RawRecord]
"""The topic a record came from, and the record as the log has it."""


class Chunk:
    """Consecutive records of a task's inputs: what one transaction takes in.

    `begin` and `end` are the offsets of each input partition before and after it.
    """

    __slots__ = ("begin", "end", "items")

    def __init__(self, items: list[Item], begin: dict[TP, int], end: dict[TP, int]) -> None:
        self.items = items
        self.begin = begin
        self.end = end

    def split(self, index: int, partition: int) -> list["Chunk"]:
        """Part at `index` into the records before it, the record itself and those behind."""
        parts = []
        begin = dict(self.begin)
        for items in (self.items[:index], self.items[index : index + 1], self.items[index + 1 :]):
            if items:
                ends = {TP(spec.name, partition): raw.offset + 1 for spec, raw in items}
                parts.append(Chunk(items, {tp: begin[tp] for tp in ends}, ends))
                begin.update(ends)
        for tp, end in self.end.items():  # markers behind the last record belong to the last part that has it
            last = next((part for part in reversed(parts) if tp in part.end), parts[-1])
            last.begin.setdefault(tp, self.begin[tp])
            last.end[tp] = end
        return parts
