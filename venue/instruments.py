"""The instruments that the venue lists: a file of reference data, read once at the start."""

from collections import Counter
from pathlib import Path

import msgspec
from pydantic import ValidationError

from models.values import Instrument, InstrumentStatus
from venue.errors import StartError


class _File(msgspec.Struct):
    """Of a file of reference data the venue needs the instruments; what else it has is not for it."""

    instruments: list[dict[str, object]]


def read_listing(path: Path) -> dict[str, Instrument]:
    """The instruments that new orders may be in, by symbol: those of the file that are not delisted.

    Raises StartError for a file that can't be read, a field that is wrong, a symbol that is there twice.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=_File).instruments
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(
            f'{path} is no file of instruments: {error}; it has to be JSON like {{"instruments": [...]}}, '
            "as feed/demo.json is"
        ) from None
    listed = [_instrument(path, index, row) for index, row in enumerate(rows)]
    symbols = Counter(each.symbol for each in listed)
    if twice := [symbol for symbol, count in symbols.items() if count > 1]:
        raise StartError(f"{path} has {twice[0]!r} more than once: keep one of them")
    return {each.symbol: each for each in listed if each.status is not InstrumentStatus.DELISTED}


def _instrument(path: Path, index: int, row: dict[str, object]) -> Instrument:
    try:
        return Instrument.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([f"instruments[{index}]", *(str(part) for part in first["loc"])])
        raise StartError(f"{path}: {where}: {first['msg']}: correct it") from None
