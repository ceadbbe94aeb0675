"""I5: what stands on another partition than its key's was not acted on, wherever its key belongs.

Two partitions that both take in an account's orders have limits of their own each. So an order that was sent
to a wrong partition, and only there, is decided on none; sent again to the right one it is another record.
"""

from checker.findings import Findings
from checker.history import Slice, Traces, order_id_of
from checker.records import ORDERS, Origin

I5 = "I5"


class Strays:
    """Orders and requests on wrong partitions, and what was decided without a record, over all partitions."""

    def __init__(self) -> None:
        self._strays: dict[str, Origin] = {}
        self._unsent: set[str] = set()

    def add(self, history: Slice, traces: Traces) -> None:
        """Note what one partition has of either."""
        for offset, order_id in history.strays.get(ORDERS, {}).items():
            self._strays.setdefault(order_id, Origin(ORDERS, history.partition, offset))
        self._unsent |= {
            trace.order_id
            for trace in traces
            if trace.received is None and (trace.approvals or trace.compliance or trace.executions)
        }
        self._unsent |= {order_id_of(stray.event) for stray in traces.requests.strays}

    def check(self) -> Findings:
        """Compare, once all partitions are noted."""
        found = Findings()
        for order_id in sorted(self._strays.keys() & self._unsent):
            message = "an order that was sent to a wrong partition only was acted on"
            found.violate(I5, message, f"{order_id} at {self._strays[order_id]}")
        return found
