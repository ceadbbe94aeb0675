"""What partitions and paths may be: for settings, and for options, whose `--help` has to be quick."""

import re
import unicodedata
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

PARTITIONS_MAX: Final = 256
"""The number of key shards. Powers of two divide it, so that a shard is on one partition, its keys' own."""

PARTITIONS_ALLOWED: Final = f"a power of two from 1 to {PARTITIONS_MAX}"
PATH_ALLOWED: Final = "a path in UTF-8 without control characters"

PORT_MAX: Final = 65_535
_ADDRESS: Final = re.compile(r"(?:\[([^]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")


def is_address(text: str) -> bool:
    """Whether a socket takes `host` or `host:port`: others raise what is no OSError when they are used."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return False
    bracketed, name, port = found.groups()
    try:
        if bracketed is None:
            name.encode("idna")
        else:
            IPv6Address(bracketed)
    except ValueError:
        return False
    return port is None or 0 < int(port) <= PORT_MAX


def partition_count(text: str) -> int:
    """Raises ValueError for anything but `PARTITIONS_ALLOWED`."""
    count = int(text)
    if not 1 <= count <= PARTITIONS_MAX or count.bit_count() != 1:
        raise ValueError(text)
    return count


def is_nameable(path: str) -> bool:
    """Whether Java, RocksDB and a log line can name this path: bytes that are no UTF-8 are surrogates."""
    return not any(unicodedata.category(each) in ("Cc", "Cs") for each in path)


def absolute(path: object) -> Path:
    """The path with `~` filled in; raises ValueError for anything but `PATH_ALLOWED`."""
    if not (text := str(path).strip()) or not is_nameable(text):
        raise ValueError(PATH_ALLOWED)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user, or nobody knows where we are at home
        raise ValueError(PATH_ALLOWED) from error
