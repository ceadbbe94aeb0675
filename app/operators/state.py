"""`python -m app state`: what an account had at a time, folded from the log alone."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from app.domain.books import NO_BOOKS, Books, folded, in_order
from app.domain.errors import InvariantBroken
from app.domain.hindsight import History, Market
from app.domain.limit_history import Gone, InForce
from app.domain.profit import marked
from app.domain.reference import Known, Reference
from app.domain.risk import Holding, worst_exposure_micros
from app.domain.timeline import AsOf
from app.errors import UserError
from app.operators.desk import Desk
from app.operators.history import Read, read_log
from app.operators.limit_values import NAMES, shown
from app.operators.moments import told
from app.units import Words
from models.commands import SetRiskLimits
from models.events import InstrumentListed
from models.values import MICROS


class State(NamedTuple):
    """What an account had at a time; amounts in micros of each instrument's currency."""

    account_id: str
    at_ms: int
    limits: dict[str, Any] | None
    positions: list[dict[str, Any]]
    open_orders: list[dict[str, Any]]
    gross_exposure_micros: int | None
    last_sequence: int | None
    notes: list[str]


async def state(options: argparse.Namespace) -> int:
    """Print it."""
    at_ms = int(time.time() * 1_000) if options.at is None else options.at
    async with Desk.open(options.bootstrap, options.wait) as desk:
        read = await read_log(desk, options.account)
    found = state_at(read, options.account, at_ms)
    if options.json:
        print(json.dumps(found._asdict(), indent=2, ensure_ascii=False))
    else:
        listed = AsOf(read.market.instruments, at_ms)
        show(found, dict(listed), read.histories[options.account].limits.at(at_ms))
    return 0


def books_at(history: History, market: Market, at_ms: int) -> Books:
    """The books after all that was logged up to a time. Raises UserError if the log contradicts itself."""
    books = NO_BOOKS
    decisions = [each for each in history.decisions if each.at_ms <= at_ms]
    reports = [each for each in history.reports if each.at_ms <= at_ms]
    for logged in in_order(decisions, reports):
        try:
            books = folded(books, logged.event, market.listed(logged.at_ms))
        except InvariantBroken as error:
            raise contradiction(logged.place, error) from None
    return books


def contradiction(place: str, error: InvariantBroken) -> UserError:
    """The log has something that risk would not have taken."""
    where = f"{place}: " if place else ""
    return UserError(f"{where}the log contradicts itself: {error}; see 'python -m app check'")


def state_at(read: Read, account_id: str, at_ms: int) -> State:
    """What the log that was read says of an account at a time."""
    history = read.histories[account_id]
    books = books_at(history, read.market, at_ms)
    in_force = history.limits.at(at_ms)
    limits = in_force.model_dump(mode="json") if isinstance(in_force, SetRiskLimits) else None
    return State(
        account_id=account_id,
        at_ms=at_ms,
        limits=limits,
        positions=[
            _position(symbol, holding, read.market, at_ms)
            for symbol, holding in sorted(books.account.holdings.items())
        ],
        open_orders=list(_open_orders(books)),
        gross_exposure_micros=_gross_micros(books, read.market, at_ms),
        last_sequence=books.account.last_sequence,
        notes=list(_notes(read, account_id, in_force)),
    )


def _position(symbol: str, holding: Holding, market: Market, at_ms: int) -> dict[str, Any]:
    listed = market.listed(at_ms).values.get(symbol)
    price = AsOf(market.prices, at_ms).get(symbol)
    told_of = marked(holding, listed, price, at_ms)
    profit, lots = holding.profit, holding.position_lots
    average = None if profit is None or not lots else profit.cost_tick_lots / lots
    return {
        "symbol": symbol,
        "currency": None if listed is None else listed.instrument.currency,
        "position_lots": lots,
        "open_buy_lots": holding.open_buy_lots,
        "open_sell_lots": holding.open_sell_lots,
        "scale": holding.scale,
        "cost_tick_lots": None if profit is None else profit.cost_tick_lots,
        "average_price_ticks": average,
        "realised_micros": told_of.realised_micros,
        "unrealised_micros": told_of.unrealised_micros,
        "fee_micros": told_of.fee_micros,
        "price_ticks": told_of.price_ticks,
        "price_age_ms": told_of.price_age_ms,
        "why": dict(told_of.why),
    }


def _open_orders(books: Books) -> Iterator[dict[str, Any]]:
    for order_id, each in books.reservations.items():
        waits = each.replace
        yield {
            "order_id": order_id,
            "symbol": each.symbol,
            "side": each.side.value,
            "price_ticks": each.price_ticks,
            "open_lots": each.open_lots,
            "quantity_lots": each.quantity_lots,
            "pending": each.pending.value,
            "cancel_id": each.cancel_id,
            "replace": None
            if waits is None
            else {
                "request_id": waits.request_id,
                "quantity_lots": waits.quantity_lots,
                "price_ticks": waits.price_ticks,
            },
        }


def _gross_micros(books: Books, market: Market, at_ms: int) -> int | None:
    reference = Reference(
        Known({}, {}), market.listed(at_ms), Known({}, {}), Known(AsOf(market.prices, at_ms), {})
    )
    gross = [
        worst_exposure_micros(symbol, holding, reference)
        for symbol, holding in books.account.holdings.items()
        if not holding.is_flat
    ]
    known = [each for each in gross if each is not None]
    return sum(known) if len(known) == len(gross) else None


def _notes(read: Read, account_id: str, in_force: InForce) -> Iterator[str]:
    if isinstance(in_force, Gone):
        version = (
            "were in force" if in_force.version is None else f"of version {in_force.version} were in force"
        )
        yield (
            f"limits {version}, by {in_force.who or '-'}: {in_force.why or '-'}; their values are gone from "
            "the log: the topic risk-limits is compacted, and keeps an account's last command only"
        )
    if read.answers_cut:
        yield (
            "command-answers has lost its beginning: limits whose answer is lost count from the time of "
            "their command"
        )
    if held := read.held.get(account_id):
        yield f"{held} records of the account are dead letters of risk: they are not in these books"


def show(found: State, listed: Mapping[str, InstrumentListed], in_force: InForce) -> None:
    """Tables for people."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{found.account_id} at {told(found.at_ms)}")
    words = Words(listed)
    for table in (_positions_table(found, listed, words), _orders_table(found, words)):
        console.print(table if table.row_count else f"no {table.title}")
    currency = next((each["currency"] for each in found.positions if each["currency"]), "")
    gross = None if found.gross_exposure_micros is None else found.gross_exposure_micros / MICROS
    worth = "not known: a symbol has no price" if gross is None else f"{gross:,.2f} {currency}".rstrip()
    console.print(f"gross exposure {worth}")
    if isinstance(in_force, SetRiskLimits):
        by = f"by {in_force.who or '-'}: {in_force.why or '-'}"
        console.print(f"limits, version {in_force.version}, {by}")
        for name in NAMES:
            console.print(f"  {name:<28}{shown(name, in_force, currency)}")
    elif in_force is None:
        console.print("no limits were in force: every order is refused")
    for note in found.notes:
        console.print(f"note: {note}")


def _positions_table(found: State, listed: Mapping[str, InstrumentListed], words: Words) -> Table:
    columns = ("symbol", "position", "average", "realised", "unrealised", "fees", "mark", "age")
    table = Table(*columns, box=None, title="positions")
    names = ("realised_micros", "unrealised_micros", "fee_micros", "price_ticks", "price_age_ms")
    for row in found.positions:
        unit, average = listed.get(row["symbol"]), row["average_price_ticks"]
        priced = "-" if average is None or unit is None else f"{average * float(unit.instrument.tick):,.4f}"
        amounts = [_said(words, name, row) for name in names]
        table.add_row(row["symbol"], _said(words, "position_lots", row), priced, *amounts)
    return table


def _orders_table(found: State, words: Words) -> Table:
    table = Table("order", "side", "symbol", "price", "open", "of", "pending", box=None, title="open orders")
    for row in found.open_orders:
        terms = [_said(words, name, row) for name in ("price_ticks", "open_lots", "quantity_lots")]
        table.add_row(row["order_id"], row["side"], row["symbol"], *terms, row["pending"])
    return table


def _said(words: Words, name: str, row: Mapping[str, Any]) -> str:
    value = row[name]
    return "not known" if value is None else words([name], value, [row]) or str(value)
