"""What the venue takes over HTTP: the shape and the bounds of every request body."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, TypeVar

from msgspec import DecodeError, Meta, Struct, ValidationError
from msgspec.json import Decoder

from models.values import LOTS_MAX, Side, TimeInForce
from venue.book import Cancel, Order, Replace, Request
from venue.errors import BadRequestError

BODY_BYTES_MAX = 16 * 1024 * 1024
ITEMS_MAX = 10_000
TEXT_CHARS_MAX = 1_024
SESSION_MAX = 65_535
PRICE_TICKS_MAX = 10**15
SEQUENCE_MAX = 2**62
HANG_MS_MAX = 600_000
COUNT_MAX = 1_000_000

Text = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
Sequence = Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)]
AnyInt64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Session = Annotated[int, Meta(ge=0, le=SESSION_MAX)]
Epoch = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Lots = Annotated[int, Meta(ge=1, le=LOTS_MAX)]
Epochs = Annotated[dict[Session, Epoch], Meta(max_length=ITEMS_MAX)]
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Duration = Annotated[int, Meta(ge=0, le=HANG_MS_MAX)]


class NewOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """A limit order as sent. An absurd price is not bad input: the venue refuses it by a report."""

    session: Session
    client_order_id: Text
    account_id: Text
    symbol: Text
    side: Side
    quantity_lots: Lots
    price_ticks: AnyInt64
    time_in_force: TimeInForce

    def taken(self) -> Order:
        return Order(
            self.client_order_id,
            self.account_id,
            self.session,
            self.symbol,
            self.side,
            self.quantity_lots,
            self.price_ticks,
            self.time_in_force,
        )


class OrdersRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Orders of any number of sessions. `sessions` has the epoch of each, which tells its owners apart: one
    below the highest seen is refused.
    """

    sessions: Epochs
    orders: Annotated[list[NewOrder], Meta(max_length=ITEMS_MAX)]


class OrdersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Asked with sessions and their epochs, it fences the earlier owners of these."""

    client_order_ids: Annotated[list[Text], Meta(max_length=ITEMS_MAX)]
    sessions: Epochs = {}


class _NewRequest(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    session: Session
    request_id: Text
    account_id: Text
    order_id: Text
    symbol: Text
    side: Side


class NewCancel(_NewRequest, frozen=True, tag="cancel"):
    """A cancel as sent. It has neither quantity nor price: absent, or null."""

    quantity_lots: None = None
    price_ticks: None = None

    def taken(self) -> Request:
        return Cancel(self.session, self.request_id, self.account_id, self.order_id, self.symbol, self.side)


class NewReplace(_NewRequest, frozen=True, tag="replace"):
    """A replace as sent. `quantity_lots` is the new total, what is filled included."""

    quantity_lots: Lots
    price_ticks: AnyInt64

    def taken(self) -> Request:
        return Replace(
            self.session,
            self.request_id,
            self.account_id,
            self.order_id,
            self.symbol,
            self.side,
            self.quantity_lots,
            self.price_ticks,
        )


class RequestsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Cancels and replaces of any number of sessions, fenced by `sessions` as orders are."""

    sessions: Epochs
    requests: Annotated[list[NewCancel | NewReplace], Meta(max_length=ITEMS_MAX)]


class RequestsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """As for orders: asked with sessions and their epochs, it fences the earlier owners of these."""

    request_ids: Annotated[list[Text], Meta(max_length=ITEMS_MAX)]
    sessions: Epochs = {}


class MarketTick(Struct, frozen=True):
    """The fields of `TickReceived`; others are no business of the venue's.

    A quantity of 0 (less than a lot) moves the price and fills nothing. A higher epoch counts anew.
    """

    symbol: Text
    sequence: Sequence
    price_ticks: Annotated[int, Meta(ge=1, le=PRICE_TICKS_MAX)]
    quantity_lots: Annotated[int, Meta(ge=0, le=LOTS_MAX)]
    exchange_at_ms: AnyInt64
    observed_at_ms: AnyInt64
    epoch: AnyInt64 = 0


class MarketRequest(Struct, frozen=True, forbid_unknown_fields=True):
    ticks: Annotated[list[MarketTick], Meta(max_length=ITEMS_MAX)]


class FaultsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Faults to set; one that is not named stays as it is. See `venue.faults`."""

    hang_ms: _Duration | None = None
    requests: _Count | None = None
    for_ms: _Duration | None = None
    drop_acks: _Count | None = None
    duplicate_reports: _Count | None = None
    added_fields: _Count | None = None
    reject_next: _Count | None = None
    reject_requests_next: _Count | None = None
    cancel_next: _Count | None = None
    unavailable_ms: _Duration | None = None
    error_rate_per_mille: Annotated[int, Meta(ge=0, le=1_000)] | None = None


_Body = TypeVar(
    "_Body", OrdersRequest, OrdersQuery, RequestsRequest, RequestsQuery, MarketRequest, FaultsRequest
)

_orders = Decoder(OrdersRequest)
_query = Decoder(OrdersQuery)
_requests = Decoder(RequestsRequest)
_requests_query = Decoder(RequestsQuery)
_market = Decoder(MarketRequest)
_faults = Decoder(FaultsRequest)


def read_orders(body: bytes) -> tuple[OrdersRequest, list[Order]]:
    """Raises BadRequestError, as all the readers here do."""
    asked = _decode(_orders, body)
    _require_sessions("orders", asked.sessions, asked.orders)
    return asked, [order.taken() for order in asked.orders]


def read_query(body: bytes) -> OrdersQuery:
    return _decode(_query, body)


def read_requests(body: bytes) -> tuple[RequestsRequest, list[Request]]:
    asked = _decode(_requests, body)
    _require_sessions("requests", asked.sessions, asked.requests)
    return asked, [request.taken() for request in asked.requests]


def read_requests_query(body: bytes) -> RequestsQuery:
    return _decode(_requests_query, body)


def _require_sessions(
    name: str, sessions: Mapping[int, int], items: Iterable[NewOrder | NewCancel | NewReplace]
) -> None:
    """Every session that is sent on has an epoch."""
    for index, item in enumerate(items):
        if item.session not in sessions:
            raise BadRequestError(
                f"session {item.session} is not among the request's sessions",
                where=f"{name}[{index}].session",
                what_to_do="name it in `sessions`, with its epoch",
            )


def read_market(body: bytes, knows: Callable[[str], bool]) -> list[MarketTick]:
    ticks = _decode(_market, body).ticks
    for index, tick in enumerate(ticks):
        if not knows(tick.symbol):
            raise BadRequestError(
                f"unknown symbol {tick.symbol[:40]!r}",
                where=f"ticks[{index}].symbol",
                what_to_do="list it in the venue's file of instruments, or do not send it",
            )
    return ticks


def read_faults(body: bytes) -> FaultsRequest:
    request = _decode(_faults, body)
    bounds = [bound for bound in (request.requests, request.for_ms) if bound is not None]
    if len(bounds) != (1 if request.hang_ms else 0):
        raise BadRequestError(
            "a hang needs one end: requests or for_ms",
            where="hang_ms, requests, for_ms",
            what_to_do='send {"hang_ms": 200, "requests": 5} or {"hang_ms": 200, "for_ms": 1000}',
        )
    return request


def read_after(text: str) -> dict[int, int]:
    """`<session>:<sequence>,...`: the last report known of each session that is asked for."""
    after: dict[int, int] = {}
    for part in text.split(","):
        session, _, sequence = part.partition(":")
        after[_read_int(session, "after", SESSION_MAX)] = _read_int(sequence, "after", SEQUENCE_MAX)
    return after


def _read_int(text: str, where: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= high):
        raise BadRequestError(
            f"{text[:40]!r} is no whole number from 0 to {high}",
            where=where,
            what_to_do="name sessions as <session>:<sequence>,... with the last sequence known of each",
        )
    return int(text)


def _decode(decoder: Decoder[_Body], body: bytes) -> _Body:
    try:
        return decoder.decode(body)
    except ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        raise BadRequestError(
            what, where=path.rstrip("`") or "the body", what_to_do="correct this field and send all again"
        ) from None
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(str(error), where="the body", what_to_do="send JSON in UTF-8") from None
