"""The kinds of reference data: the fields that a file has of each, and how they become commands and back."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from app.domain.refdata import Decision, decide_account, decide_counterparty, decide_instrument
from app.engine.topics import TopicSpec
from app.topics import ACCOUNTS, COUNTERPARTIES, HALTS, INSTRUMENTS, RESTRICTED_LIST
from models.commands import SetAccount, SetCounterparty, SetInstrument
from models.events import AccountRegistered, CounterpartyRegistered, InstrumentListed
from models.values import Instrument

Command = SetInstrument | SetAccount | SetCounterparty
Fields = dict[str, Any]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS: Final = {"valid_from": "valid_from_ms", "valid_until": "valid_until_ms"}
"""Fields that a file has as a date and time, and the model in milliseconds."""


class Kind(NamedTuple):
    """One kind of reference data that files hold.

    `fields` tells what each field is; those in `optional` may be left out. `command` makes a command of
    version 0 by nobody from a file's fields, and raises pydantic's ValidationError; `fields_of` is the way
    back, from a command or from what is in force.
    """

    name: str
    key: str
    fields: Mapping[str, str]
    optional: frozenset[str]
    state: TopicSpec
    command: Callable[[Fields], Command]
    fields_of: Callable[[Any], Fields]
    decide: Callable[[Any, Any], Decision[Any]]

    def subject(self, value: Any) -> str:
        return str(self.fields_of(value)[self.key])


NOBODY: Final = {"version": 0, "who": "", "why": ""}
_STATUS: Final = "active or suspended"


def _set_instrument(fields: Fields) -> SetInstrument:
    within = {MOMENTS.get(name, name): value for name, value in fields.items()}
    return SetInstrument.model_validate({"instrument": within, **NOBODY})


def _instrument_fields(value: SetInstrument | InstrumentListed) -> Fields:
    instrument: Instrument = value.instrument
    return {
        "symbol": instrument.symbol,
        "base": instrument.base,
        "currency": instrument.currency,
        "tick": f"{instrument.tick.normalize():f}",
        "lot": f"{instrument.lot.normalize():f}",
        "multiplier": instrument.multiplier,
        "status": instrument.status.value,
        "valid_from": in_words(instrument.valid_from_ms),
        "valid_until": in_words(instrument.valid_until_ms),
    }


def _set_account(fields: Fields) -> SetAccount:
    return SetAccount.model_validate({**fields, **NOBODY})


def _account_fields(value: SetAccount | AccountRegistered) -> Fields:
    return {
        "account_id": value.account_id,
        "owner": value.owner,
        "firm": value.firm,
        "base_currency": value.base_currency,
        "status": value.status.value,
    }


def _set_counterparty(fields: Fields) -> SetCounterparty:
    return SetCounterparty.model_validate({**fields, **NOBODY})


def _counterparty_fields(value: SetCounterparty | CounterpartyRegistered) -> Fields:
    return {
        "counterparty_id": value.counterparty_id,
        "name": value.name,
        "status": value.status.value,
    }


INSTRUMENT_KIND: Final = Kind(
    "instruments",
    "symbol",
    {
        "symbol": "the name that orders use, such as BTC-USD",
        "base": "what is traded, such as BTC",
        "currency": "what is paid with, 2 to 12 capital letters or digits, such as USD",
        "tick": "the smallest step of the price, above 0, such as 0.01",
        "lot": "the smallest quantity, above 0, such as 0.0001",
        "multiplier": "units that a lot's base is worth, a whole number from 1; default 1",
        "status": "active, halted or delisted; default active",
        "valid_from": "orders are taken from then on, such as 2026-01-31T08:00:00Z; empty: always",
        "valid_until": "orders are taken before then, such as 2026-12-31T17:00:00Z; empty: for ever",
    },
    frozenset({"multiplier", "status", "valid_from", "valid_until"}),
    INSTRUMENTS,
    _set_instrument,
    _instrument_fields,
    decide_instrument,
)
ACCOUNT_KIND: Final = Kind(
    "accounts",
    "account_id",
    {
        "account_id": "the name that orders use",
        "owner": "who trades",
        "firm": "for which firm",
        "base_currency": "the one currency of its cash, such as USD; never changes",
        "status": f"{_STATUS}; default active",
    },
    frozenset({"status"}),
    ACCOUNTS,
    _set_account,
    _account_fields,
    decide_account,
)
COUNTERPARTY_KIND: Final = Kind(
    "counterparties",
    "counterparty_id",
    {
        "counterparty_id": "its name in the system",
        "name": "its name for people",
        "status": f"{_STATUS}; default active",
    },
    frozenset({"status"}),
    COUNTERPARTIES,
    _set_counterparty,
    _counterparty_fields,
    decide_counterparty,
)
KINDS: Final = {kind.name: kind for kind in (INSTRUMENT_KIND, ACCOUNT_KIND, COUNTERPARTY_KIND)}
CONTROLS: Final = {"restrictions": RESTRICTED_LIST, "halts": HALTS}
"""What `show` tells beside them: it has commands of its own, no files."""


def to_ms(text: str) -> int:
    """A date and time with its zone in milliseconds since 1970; raises ValueError with what is wrong."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no date and time") from None
    if moment.tzinfo is None:
        raise ValueError("does not say its time zone; put a Z behind it for UTC")
    since, rest = divmod(moment - EPOCH, timedelta(milliseconds=1))
    if rest:
        raise ValueError("is finer than a millisecond")
    return since


def in_words(at_ms: int | None) -> str | None:
    """The way back; a number where no calendar reaches so far."""
    if at_ms is None:
        return None
    try:
        moment = EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return f"{at_ms} ms"
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")
