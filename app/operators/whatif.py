"""`python -m app whatif`: what risk would have decided under other limits, and what would be held then."""

import argparse
import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins
from rich.console import Console
from rich.table import Table

from app.domain.books import Books
from app.domain.errors import InvariantBroken
from app.domain.hindsight import Difference, Exposure, Verdict, hindsight
from app.errors import UserError
from app.operators.desk import Desk
from app.operators.history import Read, read_log, unknown_account
from app.operators.limit_values import changed, require_limit
from app.operators.moments import told
from app.operators.state import contradiction
from models.commands import SetRiskLimits
from models.values import EVERYBODY, MICROS, State

PASSED: Final = "passed"
NOT_SIMULATED: Final = (
    "The market's reaction is not simulated: a newly refused order never had its fills, a newly passed one "
    "rests unfilled until its time in force ends, and nothing else in the log changes because of them."
)
WANTED: Final = 'wanted is {"ACCOUNT, or * for all": {"LIMIT": VALUE}}'
ANYBODY: Final = SetRiskLimits(
    account_id=EVERYBODY,
    version=0,
    order_quantity_lots_max=0,
    order_notional_micros_max=0,
    position_lots_max=0,
    gross_exposure_micros_max=0,
    price_collar_bps=0,
    price_age_ms_max=0,
    open_orders_max=0,
)
"""Only to try changes on."""

Changes = Mapping[str, Mapping[str, Any]]
"""By account, or `*` for all: the fields of SetRiskLimits to change, and what to."""


async def whatif(options: argparse.Namespace) -> int:
    """Print what would have been otherwise."""
    if options.since is not None and options.until is not None and options.since >= options.until:
        raise UserError(f"--from is not before --until: {told(options.since)}, {told(options.until)}")
    changes = read_changes(options.limits)
    async with Desk.open(options.bootstrap, options.wait) as desk:
        read = await read_log(desk, options.account)
    gc.freeze()  # what was read stays until the end: nobody has to look whether it is garbage
    verdicts = judge(read, changes, options.since, options.until)
    if options.json:
        print(json.dumps(as_json(verdicts), indent=2, ensure_ascii=False))
    else:
        show(verdicts)
    return 0


def read_changes(path: Path) -> Changes:
    """The limits to change; raises UserError for a file that is none, and for fields that are no limits."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}; {WANTED}") from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise UserError(f"{path}: {WANTED}")
    return {account_id: _checked(path, account_id, values) for account_id, values in found.items()}


def _checked(path: Path, account_id: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        for name in values:
            require_limit(name)
        after = changed(ANYBODY, EVERYBODY, values)
    except UserError as error:
        raise UserError(f"{path}, {account_id!r}: {error}") from None
    return {name: getattr(after, name) for name in values}


def judge(
    read: Read, changes: Changes, from_ms: int | None = None, until_ms: int | None = None
) -> list[Verdict]:
    """Decide again, account by account. Raises UserError for an account that is not known."""
    for name in changes:
        if name != EVERYBODY and name not in read.registered and name not in read.histories:
            raise UserError(unknown_account(name, read.registered))
    verdicts = []
    for name, history in read.histories.items():
        of_account = {**changes.get(EVERYBODY, {}), **changes.get(name, {})}
        try:
            verdicts.append(hindsight(history, read.market, of_account, from_ms=from_ms, until_ms=until_ms))
        except InvariantBroken as error:
            raise contradiction(f"account {name}", error) from None
    return verdicts


def first_of(verdicts: Sequence[Verdict]) -> Difference | None:
    """The first difference of all accounts, by the broker's clock; another reason counts for less."""
    found = [each.first for each in verdicts if each.first is not None]
    return min(found, key=lambda each: (each.is_of_reason, each.logged.at_ms), default=None)


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For machines."""
    first = first_of(verdicts)
    return {
        "decided": sum(each.decided for each in verdicts),
        "unexplained": sum(each.unexplained for each in verdicts),
        "limits_gone": sum(each.limits_gone for each in verdicts),
        "differences": [row for each in verdicts for row in _changes(each)],
        "first_difference": None if first is None else _difference(first),
        "accounts": [
            {
                "account_id": each.account_id,
                "currency": each.currency,
                "decided": each.decided,
                "gross_exposure_micros": {
                    "recorded": _exposure(each.recorded),
                    "otherwise": _exposure(each.otherwise),
                },
                "realised_micros": {
                    currency: {"recorded": recorded, "otherwise": otherwise}
                    for currency, (recorded, otherwise) in each.realised.items()
                },
                "unknown": dict(each.unknown),
            }
            for each in verdicts
            if each.decided
        ],
        "note": NOT_SIMULATED,
    }


def _changes(verdict: Verdict) -> Iterator[dict[str, Any]]:
    for (kind, recorded, otherwise), count in verdict.changes.most_common():
        yield {
            "account_id": verdict.account_id,
            "kind": kind,
            "recorded": recorded or PASSED,
            "otherwise": otherwise or PASSED,
            "count": count,
        }


def _exposure(exposure: Exposure) -> dict[str, int]:
    return {"peak": exposure.peak_micros, "end": exposure.end_micros}


def _difference(first: Difference) -> dict[str, Any]:
    """The decision, and all that it was made by, in both worlds."""
    asked, inputs = first.asked, first.inputs
    price = inputs.reference.prices.values.get(first.symbol)
    listed = inputs.reference.instruments.values.get(first.symbol)
    return {
        "asked": asked.model_dump(mode="json"),
        "at_ms": first.logged.at_ms,
        "place": first.logged.place,
        "recorded": first.recorded or PASSED,
        "otherwise": first.otherwise or PASSED,
        "detail": first.detail,
        "inputs": {
            "received_at_ms": inputs.received_at_ms,
            "decided_at_ms": inputs.decided_at_ms,
            "known_at_ms": inputs.moment_ms,
            "price": None if price is None else price.model_dump(mode="json"),
            "instrument": None if listed is None else listed.model_dump(mode="json"),
        },
        "limits": {
            "recorded": None if inputs.limits is None else inputs.limits.model_dump(mode="json"),
            "otherwise": None if first.limits is None else first.limits.model_dump(mode="json"),
        },
        "books": {
            "recorded": _books(first.books_recorded, asked.order_id),
            "otherwise": _books(first.books, asked.order_id),
        },
    }


def _books(books: Books, order_id: str) -> dict[str, Any]:
    reservation = books.reservations.get(order_id)
    return {
        "open_orders": books.account.open_orders,
        "holdings": {
            symbol: _told(holding)
            for symbol, holding in books.account.holdings.items()
            if not holding.is_flat
        },
        "order": None if reservation is None else _told(reservation),
    }


def _told(state: State) -> dict[str, Any]:
    """All fields, also those that are at their defaults."""
    return {name: to_builtins(getattr(state, name)) for name in state.__struct_fields__}


def show(verdicts: Sequence[Verdict]) -> None:
    """Tables for people."""
    console = Console(soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    accounts = [each for each in verdicts if each.decided]
    say(f"decided again: {sum(each.decided for each in accounts):,} decisions of {len(accounts)} accounts")
    if unexplained := sum(each.unexplained for each in accounts):
        say(f"{unexplained:,} do not follow from what the log tells: they stand as they are recorded")
    if gone := sum(each.limits_gone for each in accounts):
        say(f"{gone:,} were made by limits that the log has no more: they stand as they are recorded")
    rows = [row for each in accounts for row in _changes(each)]
    if not rows:
        say("no difference")
        return
    for what, are_meant in (
        ("refused", lambda row: row["recorded"] == PASSED),
        ("passed", lambda row: row["otherwise"] == PASSED),
        ("refused for another reason", lambda row: PASSED not in (row["recorded"], row["otherwise"])),
    ):
        say(f"otherwise {what}: {_counted(filter(are_meant, rows))}")
    _show_changes(console, rows)
    _show_books(console, accounts)
    first = first_of(accounts)
    if first is not None:
        say(f"first difference, at {told(first.logged.at_ms)}:")
        say(json.dumps(_difference(first), ensure_ascii=False, indent=2))
    say(NOT_SIMULATED)


def _counted(rows: Iterator[dict[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["kind"]] += row["count"]
    kinds = (("order", "orders"), ("replace", "replaces"), ("cancel", "cancels"))
    return ", ".join(f"{counts[kind]:,} {many}" for kind, many in kinds)


def _show_changes(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    table = Table("account", "kind", "recorded", "otherwise", "count", box=None, pad_edge=False)
    table.columns[-1].justify = "right"
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table, markup=False)


def _show_books(console: Console, verdicts: Sequence[Verdict]) -> None:
    """The accounts that have something else, in their currency."""
    table = Table("account", "", "recorded", "otherwise", "change", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for each in verdicts:
        if not each.changes:
            continue
        table.add_row(
            each.account_id,
            *_compared("peak exposure", each.recorded.peak_micros, each.otherwise.peak_micros, each.currency),
        )
        table.add_row(
            "",
            *_compared(
                "exposure at the end", each.recorded.end_micros, each.otherwise.end_micros, each.currency
            ),
        )
        for currency, (recorded, otherwise) in each.realised.items():
            table.add_row("", *_compared("realised profit", recorded, otherwise, currency))
        for why in each.unknown.values():
            table.add_row("", f"not in it: {why}", "", "", "")
    console.print(table, markup=False)


def _compared(name: str, recorded: int, otherwise: int, currency: str) -> tuple[str, ...]:
    amounts = (f"{micros / MICROS:,.2f}" for micros in (recorded, otherwise))
    return (f"{name}, {currency}", *amounts, f"{(otherwise - recorded) / MICROS:+,.2f}")
