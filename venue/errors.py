"""The venue's errors.

StartError       the process can't start: one line, exit 2
BadRequestError  a request that is not taken, nothing of it: what, where and what to do, as JSON
"""


class StartError(Exception):
    """The process can't start; the message is one line that says why and what to do."""


class BadRequestError(Exception):
    """A request that is not taken; `status` is the HTTP status of the answer."""

    def __init__(self, what: str, *, where: str, what_to_do: str, status: int = 400) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.what_to_do = what_to_do
        self.status = status
