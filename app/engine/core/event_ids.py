"""The ids of events derive from what they are made of: the same input gives the same ids (rule 8)."""

from hashlib import sha256

ENDINGS_MAX = 100
ID_BYTES_MAX = 512


class Endings(dict[int, bytes]):
    """What the event ids of a service end in, by their count within a record: formatted once."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id

    def __missing__(self, number: int) -> bytes:
        ending = f":{self._app_id}:{number}".encode()
        if number < ENDINGS_MAX:
            self[number] = ending
        return ending


def shortened(origin: bytes) -> bytes:
    """The id of an input as the events made of it carry it: a long one gives way to its SHA-256."""
    return origin if len(origin) <= ID_BYTES_MAX else sha256(origin).hexdigest().encode()
