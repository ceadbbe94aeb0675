"""What the domain raises. A refusal is a value and never raised; what is raised stops the record.

    DomainError
    ├── InvariantBroken  two inputs contradict each other: a bug, here or in whoever wrote them
    ├── RefusedInput     one input is absurd by itself and has no refusal event: never worth a retry
    └── ReportGap        reports of the venue are missing: read again from the session's cursor

A message says what was wrong and where, in one line without a trailing full stop.
"""


class DomainError(Exception):
    """Base of the domain's errors."""


class InvariantBroken(DomainError):
    """The books and an event contradict each other; nothing may be written from them."""


class RefusedInput(DomainError, ValueError):
    """An input that nobody can use; a dead letter at once, since it stays wrong."""


class ReportGap(DomainError):
    """The venue's reports jumped: those between are lost to this connection, not to the venue."""

    def __init__(self, venue_sequence_last: int, venue_sequence: int) -> None:
        super().__init__(
            f"report {venue_sequence} of the venue follows report {venue_sequence_last}: "
            f"read the session again after {venue_sequence_last}"
        )
        self.venue_sequence_last = venue_sequence_last
        self.venue_sequence = venue_sequence
