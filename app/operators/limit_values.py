"""Limits as people write them: `order_age_ms_max=45s` and `order_notional_micros_max=700USD` are integers."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from app.errors import UserError
from app.units import Words
from models.commands import SetRiskLimits

NAMES: Final = tuple(
    name for name in SetRiskLimits.model_fields if name not in ("account_id", "version", "who", "why")
)
UNITS: Final[Mapping[str, Mapping[str, int]]] = {
    "_ms": {"ms": 1, "s": 1_000, "min": 60_000},
    "_bps": {"bps": 1, "%": 100},
}
MICROS: Final = 1_000_000


def read_values(texts: Sequence[str], currency: str | None) -> dict[str, Any]:
    """`name=value` each; `currency` is the account's, for amounts of cash. Raises UserError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} is no name=value; known names: {', '.join(NAMES)}")
        require_limit(name)
        if name in found:
            raise UserError(f"{name} is there twice; say it once")
        found[name] = _in_units(name, value.strip(), currency)
    return found


def require_limit(name: str) -> None:
    """Raises UserError for a name that no limit has."""
    if name not in NAMES:
        close = get_close_matches(name, NAMES, 1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"{name!r} is no limit; {meant}known: {', '.join(NAMES)}")


def changed(before: SetRiskLimits | None, account_id: str, values: Mapping[str, Any]) -> SetRiskLimits:
    """The limits before with these values, or new ones; raises UserError for what is missing or wrong."""
    known = {} if before is None else before.model_dump(include=set(NAMES))
    try:
        after = SetRiskLimits.model_validate({**known, **values, "account_id": account_id, "version": 0})
    except ValidationError as error:
        missing = [str(each["loc"][-1]) for each in error.errors() if each["type"] == "missing"]
        if missing:
            raise UserError(
                f"{account_id!r} has no limits yet, so all are needed; missing: {', '.join(missing)}"
            ) from None
        each = error.errors()[0]
        name = str(each["loc"][-1]) if each["loc"] else "account"
        raise UserError(f"{name}: {each['input']!r} is refused: {each['msg']}") from None
    for name in values:
        if getattr(after, name) < 0:
            raise UserError(f"{name}: {values[name]!r} is refused: a limit is 0 or more")
    return after


def shown(name: str, limits: SetRiskLimits, currency: str) -> str:
    """One limit, with what it means in its unit."""
    value = getattr(limits, name)
    if isinstance(value, bool):
        return "on" if value else "off"
    words = Words({}, currency)([name], value, [limits.model_dump(include=set(NAMES))])
    return f"{value} ({words})" if words else str(value)


def _in_units(name: str, text: str, currency: str | None) -> Any:
    """A number with a unit behind it becomes a number of the limit's own units; anything else stays."""
    found = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z%][A-Za-z0-9%]*)", text)
    if found is None:
        return text
    number, unit = Decimal(found[1]), found[2]
    stem = name.removesuffix("_max")
    if stem.endswith("_micros"):
        if currency is None:
            raise UserError(f"{name}={text}: the account is not registered, so its currency is not known")
        units = {currency: MICROS}
    else:
        units = dict(next((units for ending, units in UNITS.items() if stem.endswith(ending)), {}))
    if unit not in units:
        known = ", ".join(units) or "none, a plain number is meant"
        raise UserError(f"{name}={text}: {unit!r} is no unit of it; known: {known}")
    scaled = number * units[unit]
    if scaled != scaled.to_integral_value():
        raise UserError(f"{name}={text} is no whole number of the unit in its name")
    return int(scaled)
