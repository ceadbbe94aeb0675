"""Reference data and controls: may this command take, and what is in force after it?

A command that changes nothing, a repeat, is accepted. A refusal is a text for whoever sent it: what is wrong,
and what to do. What protects always takes: a halt that is switched on, and a restriction.
"""

from decimal import Decimal
from typing import Final, Generic, NamedTuple, TypeVar

from models.commands import SetAccount, SetCounterparty, SetHalt, SetInstrument, SetRestriction
from models.events import (
    AccountRegistered,
    CounterpartyRegistered,
    HaltInForce,
    InstrumentListed,
    RestrictionInForce,
)
from models.values import EVERYBODY, FormerScale, Instrument, InstrumentStatus

T = TypeVar("T")
Party = TypeVar("Party", AccountRegistered, CounterpartyRegistered)

SCALE: Final = ("base", "currency", "tick", "lot", "multiplier")
"""The fields that say what a lot and a tick are: positions can't be carried over a change of them."""
FORMER_SCALES_MAX: Final = 32
"""So many scales of an instrument are remembered. The lowest are forgotten first; no number comes again."""


DEALT_IN_BEFORE: Final = {
    each.symbol: InstrumentListed(instrument=each, version=0)
    for each in (
        Instrument(symbol="BTC-USD", base="BTC", currency="USD", tick=Decimal("0.01"), lot=Decimal("0.0001")),
        Instrument(symbol="ETH-USD", base="ETH", currency="USD", tick=Decimal("0.01"), lot=Decimal("0.001")),
    )
}
"""What the release before had built in: holdings of it are of scale 1, and nobody has listed that."""


class Decision(NamedTuple, Generic[T]):
    """What is `in_force` after a command (None: nothing), and why it was refused; empty when it was not."""

    in_force: T | None
    refusal: str = ""

    @property
    def accepted(self) -> bool:
        return not self.refusal


def decide_instrument(command: SetInstrument, before: InstrumentListed | None) -> Decision[InstrumentListed]:
    """List, change or delist an instrument. What its lots and ticks are changes only while it is delisted."""
    wanted, version = command.instrument, command.version
    if refusal := unusable_name(wanted.symbol):
        return Decision(before, f"symbol: {refusal}")
    if _is_empty_period(wanted):
        return Decision(before, "valid_until_ms is not after valid_from_ms: no order could ever be taken")
    known = before or DEALT_IN_BEFORE.get(wanted.symbol)
    if known is None:
        return Decision(InstrumentListed(instrument=wanted, version=version))
    if before is not None and version == before.version and wanted == before.instrument:
        return Decision(before)
    if before is not None and (refusal := _stale(version, before.version)):
        return Decision(before, refusal)
    changed = scale_changes(known.instrument, wanted)
    if changed and before is not None and before.instrument.status is not InstrumentStatus.DELISTED:
        return Decision(
            before,
            f"{', '.join(changed)}: may only change while the instrument is delisted, its status is "
            f"{before.instrument.status}; close the positions and orders, delist it, then change it",
        )
    scale, former = scale_after(known, wanted) if changed else (known.scale, known.former)
    return Decision(InstrumentListed(instrument=wanted, version=version, scale=scale, former=former))


def decide_account(command: SetAccount, before: AccountRegistered | None) -> Decision[AccountRegistered]:
    """Register, change or suspend an account. Its base currency stays: currencies are never added up."""
    wanted = AccountRegistered(
        account_id=command.account_id,
        owner=command.owner,
        firm=command.firm,
        base_currency=command.base_currency,
        status=command.status,
        version=command.version,
    )
    refusal = ""
    if before is not None and wanted.base_currency != before.base_currency:
        refusal = (
            f"base_currency: {before.base_currency} never changes to {wanted.base_currency}; register "
            "another account"
        )
    return _decide_party(wanted, before, "account_id", refusal)


def decide_counterparty(
    command: SetCounterparty, before: CounterpartyRegistered | None
) -> Decision[CounterpartyRegistered]:
    """Register, change or suspend a counterparty."""
    wanted = CounterpartyRegistered(
        counterparty_id=command.counterparty_id,
        name=command.name,
        status=command.status,
        version=command.version,
    )
    return _decide_party(wanted, before, "counterparty_id")


def _decide_party(wanted: Party, before: Party | None, key: str, refusal: str = "") -> Decision[Party]:
    """What is wanted, unless its name (the field `key`), its version or what `refusal` says is against it."""
    if unusable := unusable_name(getattr(wanted, key)):
        return Decision(before, f"{key}: {unusable}")
    if before is None:
        return Decision(wanted)
    if wanted == before:
        return Decision(before)
    if refusal := _stale(wanted.version, before.version) or refusal:
        return Decision(before, refusal)
    return Decision(wanted)


def decide_restriction(
    command: SetRestriction, before: RestrictionInForce | None
) -> Decision[RestrictionInForce]:
    """Restrict an instrument, which always takes, or lift the restriction.

    A lift whose version is not above the one in force is refused; one without a version takes. The version in
    force never falls.
    """
    version_before = before.version if before is not None else None
    is_new = command.version is None or version_before is None or command.version > version_before
    if not is_new and not command.restricted:
        assert before is not None
        assert command.version is not None
        if command.version == version_before and not before.restricted:
            return Decision(before)
        return Decision(before, _stale(command.version, version_before or 0))
    return Decision(
        RestrictionInForce(
            symbol=command.symbol,
            restricted=command.restricted,
            version=command.version if is_new and command.version is not None else version_before,
            who=command.who,
            why=command.why,
        )
    )


def decide_halt(command: SetHalt, before: HaltInForce | None) -> Decision[HaltInForce]:
    """Halt an account or everybody, which always takes, or let trading go on. The version never falls."""
    if before is not None and not command.halted and command.version <= before.version:
        if command.version == before.version and not before.halted:
            return Decision(before)
        return Decision(before, _stale(command.version, before.version))
    return Decision(
        HaltInForce(
            scope=command.scope,
            halted=command.halted,
            version=max(command.version, before.version if before is not None else 0),
            who=command.who,
            why=command.why,
        )
    )


def scale_changes(before: Instrument | FormerScale, after: Instrument) -> list[str]:
    """The fields in which lots and ticks of one are not those of the other."""
    return [name for name in SCALE if getattr(before, name) != getattr(after, name)]


def scale_after(before: InstrumentListed, wanted: Instrument) -> tuple[int, tuple[FormerScale, ...]]:
    """The scale of lots and ticks that change, and those that are former ones then.

    A scale that it had before is that one again, so that what is held in it fits again.
    """
    known = [*before.former, _as_former(before)]
    highest = max(each.scale for each in known)
    again = (each.scale for each in known if not scale_changes(each, wanted))
    scale = next(again, highest + 1)
    former = sorted((each for each in known if each.scale != scale), key=lambda each: each.scale)
    return scale, tuple(former[-FORMER_SCALES_MAX:])


def _as_former(listed: InstrumentListed) -> FormerScale:
    fields = {name: getattr(listed.instrument, name) for name in SCALE}
    return FormerScale(scale=listed.scale, **fields)


def unusable_name(name: str) -> str:
    """Why nobody could go by this name; empty when it is good.

    Tables put an account before a slash and an order behind it, and the name `*` means everybody.
    """
    if name == EVERYBODY:
        return f"{EVERYBODY!r} stands for everybody; choose another name"
    if name != name.strip() or not name.isprintable():
        return f"{name[:64]!r} has blanks around it or characters that can't be seen; leave them out"
    if "/" in name:
        return f"{name[:64]!r} has a slash, which separates an account from its orders; leave it out"
    return ""


def _is_empty_period(instrument: Instrument) -> bool:
    starts, ends = instrument.valid_from_ms, instrument.valid_until_ms
    return starts is not None and ends is not None and starts >= ends


def _stale(version: int, in_force: int) -> str:
    if version > in_force:
        return ""
    return (
        f"version {version} is not above {in_force}, the one in force: somebody else was first, or this is "
        "an old command; look at what is in force, then send it again with a higher version"
    )
