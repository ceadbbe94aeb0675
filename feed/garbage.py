"""Records that nobody should ever send, as raw key, value and headers: each kind breaks one thing."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from feed.dice import Dice
from feed.wire import Headers, headers_of
from models.events import OrderReceived

HUGE = "huge"
HUGE_EVERY = 10_000
HUGE_FIRST = 500
HUGE_BYTES = 5_000_000
"""One record of 5 MB in 10,000, the first one early, so that short runs meet it too."""


class RawRecord(NamedTuple):
    """A record as it is put on `orders`, and what is wrong with it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str


class _Sound(NamedTuple):
    """A sound record of a garbage account, for the kinds to spoil."""

    order: OrderReceived
    victim: str

    @property
    def key(self) -> bytes:
        return self.order.account_id.encode()

    @property
    def headers(self) -> Headers:
        return headers_of(self.order, self.order.order_id, self.order.order_id)

    @property
    def fields(self) -> dict[str, Any]:
        return self.order.model_dump(mode="json")

    @property
    def value(self) -> bytes:
        return json.dumps(self.fields).encode()

    def spoilt(self, **changes: Any) -> bytes:
        return json.dumps(self.fields | changes).encode()


_Parts = tuple[bytes | None, bytes | None, Headers]


def _with_value(value: Callable[[_Sound], bytes | None]) -> Callable[[_Sound], _Parts]:
    return lambda sound: (sound.key, value(sound), sound.headers)


def _with_header(name: str, text: bytes) -> Callable[[_Sound], _Parts]:
    return lambda sound: (
        sound.key,
        sound.value,
        [(each, text if each == name else old) for each, old in sound.headers],
    )


def _without(field: str) -> Callable[[_Sound], bytes]:
    return lambda sound: json.dumps(
        {name: value for name, value in sound.fields.items() if name != field}
    ).encode()


KINDS: Mapping[str, Callable[[_Sound], _Parts]] = {
    "no-json": _with_value(lambda _: b"\xff\xfe\x00 this is no JSON"),
    "cut-off": _with_value(lambda sound: sound.value[: len(sound.value) // 2]),
    "empty": _with_value(lambda _: b""),
    "null": _with_value(lambda _: None),
    "a-list": _with_value(lambda sound: b"[" + sound.value + b"]"),
    "deep": _with_value(lambda _: b"[" * 100_000),
    "wrong-types": _with_value(lambda sound: sound.spoilt(sequence="seven", price_ticks={"ticks": 1})),
    "fraction": _with_value(lambda sound: sound.spoilt(quantity_lots=1.5)),
    "not-a-number": _with_value(lambda sound: sound.spoilt(quantity_lots=float("nan"))),
    "unknown-side": _with_value(lambda sound: sound.spoilt(side="hold")),
    "missing-field": _with_value(_without("quantity_lots")),
    "unknown-field": _with_value(lambda sound: sound.spoilt(discount="all of it")),
    "unknown-event-type": _with_header("event-type", b"OrderTeleported"),
    "unknown-schema-version": _with_header("schema-version", b"999"),
    "headers-not-text": _with_header("event-type", b"\xff\xfe"),
    "no-headers": lambda sound: (sound.key, sound.value, []),
    "no-key": lambda sound: (None, sound.value, sound.headers),
    "key-disagrees": lambda sound: (sound.key, sound.spoilt(account_id=sound.victim), sound.headers),
    "key-not-text": lambda sound: (b"\xff\x00garbage", sound.value, sound.headers),
}
"""What can be wrong with a record; the ordinary ones, chosen with equal chance."""


def record(order: OrderReceived, dice: Dice, victim: str) -> RawRecord:
    """Spoil a sound order of a garbage account; `victim` is whom a key that disagrees pretends to be."""
    kind = dice.pick(tuple(KINDS))
    return RawRecord(*KINDS[kind](_Sound(order, victim)), kind)


def is_huge(ordinal: int) -> bool:
    """Whether the order with this number (from 0, over all accounts) is to be a huge record."""
    return ordinal % HUGE_EVERY == HUGE_FIRST


def huge(order: OrderReceived) -> RawRecord:
    """A record of 5 MB."""
    sound = _Sound(order, victim="")
    return RawRecord(sound.key, sound.spoilt(padding="x" * HUGE_BYTES), sound.headers, HUGE)
