"""What the outside may do to an input: another partitioner, no value, garbage, ids that are none."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from app.engine import Poison, Record, Table, TopicSpec, Transient, UnitOfWork, WrongPartition, unit_of_work
from app.engine.core import dead_letter, event_ids
from app.engine.core import owned as owned_module
from app.engine.kafka.cluster import partition_of
from tests.engine.alone import APP, PARTITIONS, Alone, Raw, a_key
from tests.engine.service import JsonCodec, Number, key_of

HOME, OTHER, AWAY = a_key(1), a_key(1, 1), a_key(2)
ORDERS = TopicSpec("orders", JsonCodec(Number), key_of, edge=True, id_of=lambda number: str(number.id))
REPORTS = TopicSpec("reports", JsonCodec(Number), key_of)
MIXED = TopicSpec("mixed", JsonCodec(Number), key_of, edge=True, protects=frozenset({"Cancel"}))
SWITCHES = TopicSpec("switches", JsonCodec(Number), key_of, edge=True, tombstones=True, protects=True)
STATE = TopicSpec("state", JsonCodec(Number), key_of, tombstones=True)
ANYBODY = TopicSpec("anybody", JsonCodec(Number))
OUT = TopicSpec("out", JsonCodec(Number), key_of)
INPUTS = (SWITCHES, ORDERS, REPORTS, STATE, ANYBODY)
DEAD_LETTERS = APP.settings.dead_letters


def a_number(id: str = "n", key: str = HOME, then: str = "") -> bytes:
    return msgspec.json.encode(Number(id, key, 1, then))


def pass_on(work: UnitOfWork, record: Record) -> None:
    """Emit a number twice; fail where it says so; a tombstone comes out as the number 0."""
    number = record.value
    if number is None:
        number = Number("none", (record.key or b"").decode(), 0)
    if number.then == "fail":
        raise ArithmeticError("this number fails")
    if number.then == "poison":
        raise Poison("this number can never be added")
    work.emit(OUT, number)
    work.emit(OUT, number)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Alone]]:
    made = []

    def make_one(**more: Any) -> Alone:
        given = {"handle": pass_on, "inputs": INPUTS, "outputs": [OUT], "attempts_max": 1, **more}
        made.append(Alone(tmp_path, **given))
        return made[-1]

    yield make_one
    for each in made:
        each.store.close()


@pytest.fixture
def alone(make: Callable[..., Alone]) -> Alone:
    return make()


# -- the partition of a key


@pytest.mark.parametrize("spec", INPUTS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("value", [a_number(key=AWAY), None, b"nonsense"], ids=["number", "none", "nonsense"])
async def test_a_record_on_another_partition_than_its_keys_is_a_dead_letter_and_holds_no_key(
    alone: Alone, spec: TopicSpec, value: bytes | None
) -> None:
    await alone.take((spec, Raw(0, AWAY.encode(), value)), (spec, Raw(1, HOME.encode(), a_number())))

    (letter,) = alone.dead
    assert letter["error"].startswith(f"WrongPartition: the key {AWAY.encode()!r} belongs on partition 2 of")
    assert "partitioner=murmur2_random" in letter["error"]
    assert (letter["topic"], letter["partition"], letter["offset"]) == (spec.name, "1", "0")
    assert alone.quarantined == []
    assert [each.key for each in alone.sent(OUT)] == [HOME.encode()] * 2
    assert alone.task.dead_letters.counts == {(spec.name, "WrongPartition"): 1}


@pytest.mark.parametrize("spec", [ORDERS, ANYBODY], ids=lambda spec: spec.name)
async def test_a_record_without_a_key_lies_anywhere_and_is_judged_by_its_value(
    alone: Alone, spec: TopicSpec
) -> None:
    await alone.take((spec, Raw(0, None, a_number())))

    errors = [each["error"] for each in alone.dead]
    if spec.key_of is None:
        assert errors == []
    else:
        assert [error.startswith("ValueError: the record has no key") for error in errors] == [True]


async def test_a_stray_is_told_apart_from_what_waits_behind_a_dead_letter(alone: Alone) -> None:
    """An earlier release may have quarantined the key here: the stray is still one by its own fault."""
    alone.store.apply({"quarantine": {AWAY.encode(): b'{"behind":"x/1/1","held":0}'}}, {"quarantine": 1})
    alone.task.dead_letters.held_keys = 1
    await alone.take((REPORTS, Raw(0, AWAY.encode(), a_number(key=AWAY))))

    (letter,) = alone.dead
    assert "held-behind" not in letter
    assert letter["error"].startswith("WrongPartition")


@pytest.mark.parametrize("key", [b"", b"\xff\x00", b"k" * 64 * 1024], ids=["empty", "no text", "long"])
async def test_any_bytes_may_be_a_key(make: Callable[..., Alone], key: bytes) -> None:
    right = partition_of(key, PARTITIONS)
    for partition in (right, (right + 1) % PARTITIONS):
        alone = make(partition=partition)
        await alone.take((ANYBODY, Raw(0, key, a_number())))
        assert [each["error"].split(":")[0] for each in alone.dead] == ["WrongPartition"] * (
            partition != right
        )


@pytest.mark.parametrize("spec", [REPORTS, ORDERS, ANYBODY], ids=lambda spec: spec.name)
async def test_a_key_without_end_is_a_dead_letter_before_anybody_hashes_it(
    alone: Alone, spec: TopicSpec
) -> None:
    began = time.process_time()
    await alone.take(*((spec, Raw(each, bytes(9_000_000), a_number())) for each in range(5)))

    assert time.process_time() - began < 1.0, "hashing them would take half a minute"
    assert {each["error"] for each in alone.dead} == {
        "KeyTooLong: a key of 9000000 bytes; at most 65536 are taken"
    }
    assert len(alone.dead) == 5
    assert alone.quarantined == []


async def test_the_keys_known_to_be_at_home_are_bounded(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_module, "HOME_KEYS_MAX", 8)
    keys = [key for each in range(200) if partition_of(key := b"k%d" % each, PARTITIONS) == 1]
    long = next(key for each in range(99) if partition_of(key := b"%d" % each * 200, PARTITIONS) == 1)
    for _ in range(2):
        for each in [*keys, long, None]:
            assert alone.task.stray(each, "orders") is None
            assert len(alone.task.at_home) <= 8
    assert alone.task.at_home.keys() <= set(keys)


# -- no value


async def test_a_tombstone_is_an_order_where_the_topic_says_so(alone: Alone) -> None:
    await alone.take(*((spec, Raw(0, HOME.encode(), None)) for spec in (SWITCHES, STATE)))

    assert alone.dead == []
    assert [msgspec.json.decode(each.value or b"")["number"] for each in alone.sent(OUT)] == [0] * 4


async def test_a_tombstone_is_a_dead_letter_elsewhere_and_without_a_key_everywhere(alone: Alone) -> None:
    await alone.take(
        (SWITCHES, Raw(0, None, None)), (ORDERS, Raw(0, HOME.encode(), None)), (STATE, Raw(0, None, None))
    )

    assert [(each["topic"], each["error"]) for each in alone.dead] == [
        ("switches", "ValueError: the record has neither key nor value"),
        ("orders", "ValueError: the record has no value"),
        ("state", "ValueError: the record has neither key nor value"),
    ]


# -- what protects


async def test_what_protects_passes_a_quarantine(alone: Alone) -> None:
    await alone.take((REPORTS, Raw(0, HOME.encode(), b"nonsense")))
    assert alone.quarantined == [HOME]

    await alone.take(
        (SWITCHES, Raw(0, HOME.encode(), a_number("switch"))),
        (SWITCHES, Raw(1, HOME.encode(), None)),
        (ORDERS, Raw(0, HOME.encode(), a_number("order"))),
    )

    assert [each.get("held-behind") for each in alone.dead] == [None, "reports/1/0"]
    came = [msgspec.json.decode(each.value or b"")["id"] for each in alone.sent(OUT)]
    assert came == ["switch", "switch", "none", "none"]
    assert alone.task.dead_letters.counts == {("reports", "DecodeError"): 1, ("orders", "held"): 1}


@pytest.mark.parametrize(("event_type", "passes"), [(b"Cancel", True), (b"Number", False), (None, False)])
async def test_only_the_event_types_that_protect_pass_a_quarantine(
    event_type: bytes | None, passes: bool
) -> None:
    headers = [] if event_type is None else [("event-type", event_type)]

    assert MIXED.passes([("other", b"Cancel"), *headers]) is passes


@pytest.mark.parametrize(
    "value",
    [b"nonsense", a_number(key="else"), a_number(then="fail"), a_number(then="poison")],
    ids=["nonsense", "other key", "fails", "poison"],
)
async def test_what_protects_never_holds_its_key(alone: Alone, value: bytes) -> None:
    await alone.take((SWITCHES, Raw(0, HOME.encode(), value)), (REPORTS, Raw(1, HOME.encode(), a_number())))

    assert len(alone.dead) == 1
    assert alone.quarantined == []
    assert len(alone.sent(OUT)) == 2


async def test_the_same_fault_on_a_topic_of_our_own_holds_its_key(alone: Alone) -> None:
    await alone.take((REPORTS, Raw(0, HOME.encode(), a_number(then="fail"))))

    assert alone.quarantined == [HOME]


# -- ids


def ids(alone: Alone) -> list[str]:
    return [each.headers["event-id"].decode() for each in alone.sent(OUT)]


async def test_ids_derive_from_the_business_id_wherever_a_record_stands(make: Callable[..., Alone]) -> None:
    for offset in (3, 77):
        alone = make()
        await alone.take((ORDERS, Raw(offset, HOME.encode(), a_number("acc-1-5"), (("event-id", b"x"),))))
        assert ids(alone) == ["acc-1-5:alone:0", "acc-1-5:alone:1"]
        alone.store.close()


async def test_without_a_business_id_they_derive_from_the_event_and_at_last_from_its_place(
    alone: Alone,
) -> None:
    named, unnamed = (("event-id", b"acc-1-5:risk:0"),), (("event-id", None), ("other", b"1"))
    await alone.take(
        (REPORTS, Raw(0, HOME.encode(), a_number(), named)),
        (REPORTS, Raw(1, HOME.encode(), a_number())),
        (REPORTS, Raw(2, HOME.encode(), a_number(), unnamed)),
        (STATE, Raw(9, HOME.encode(), None)),
    )

    assert ids(alone)[::2] == [
        "acc-1-5:risk:0:alone:0",
        "reports/1/1:alone:0",
        "reports/1/2:alone:0",
        "state/1/9:alone:0",
    ]
    assert ids(alone)[1::2] == [each.removesuffix("0") + "1" for each in ids(alone)[::2]]


async def test_an_id_without_end_is_cut_short(alone: Alone) -> None:
    headers = [(("event-id", bytes([letter]) * 100_000),) for letter in b"ab"]
    await alone.take(*((REPORTS, Raw(n, HOME.encode(), a_number(), each)) for n, each in enumerate(headers)))

    assert len(set(ids(alone))) == 4
    assert max(map(len, ids(alone))) < 100


async def test_a_record_may_have_more_events_than_endings_are_kept(
    make: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_ids, "ENDINGS_MAX", 3)

    def emit_often(work: UnitOfWork, record: Record) -> None:
        for _ in range(5):
            work.emit(OUT, record.value)

    alone = make(handle=emit_often)
    await alone.take((ORDERS, Raw(0, HOME.encode(), a_number("n"))))
    assert ids(alone) == [f"n:alone:{number}" for number in range(5)]
    assert len(alone.task.endings) == 3


# -- answers


async def test_the_service_hears_of_each_dead_letter_and_may_answer_it_in_the_same_commit(
    make: Callable[..., Alone],
) -> None:
    heard: list[tuple[str, int, str]] = []

    def answer(work: UnitOfWork, spec: TopicSpec, raw: Any, error: BaseException) -> None:
        heard.append((spec.name, raw.offset, type(error).__name__))
        work.emit(OUT, Number("answer", HOME, raw.offset))

    alone = make(buried=[answer])
    headers = (("event-id", b"e7"), ("correlation-id", b"c7"))
    await alone.take(
        (ORDERS, Raw(0, HOME.encode(), b"nonsense", headers)),
        (ORDERS, Raw(1, AWAY.encode(), b"nonsense")),
        (ORDERS, Raw(2, OTHER.encode(), a_number(key=OTHER, then="fail"))),
        (REPORTS, Raw(3, HOME.encode(), b"nonsense")),
        (REPORTS, Raw(4, HOME.encode(), a_number("held"))),
    )

    assert set(heard) == {
        ("orders", 0, "DecodeError"),
        ("orders", 1, "WrongPartition"),
        ("orders", 2, "ArithmeticError"),
        ("reports", 3, "DecodeError"),
    }
    answers = {each.headers["event-id"]: each for each in alone.sent(OUT)}
    assert set(answers) == {
        b"e7:alone:0",
        b"orders/1/1:alone:0",
        b"orders/1/2:alone:0",
        b"reports/1/3:alone:0",
    }
    assert answers[b"e7:alone:0"].headers["correlation-id"] == b"c7"
    assert [each.get("held-behind") for each in alone.dead] == [None, None, None, None, "reports/1/3"]


async def test_an_answer_that_fails_costs_only_itself(
    make: Callable[..., Alone], caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0

    def answer(work: UnitOfWork, spec: TopicSpec, raw: Any, error: BaseException) -> None:
        nonlocal tried
        tried += 1
        work.emit(OUT, Number("half an answer", HOME, 1))
        raise KeyError("the answer has a bug")

    alone = make(buried=[answer], attempts_max=2)
    with caplog.at_level(logging.ERROR):
        await alone.take(
            (ORDERS, Raw(0, HOME.encode(), a_number("before"))),
            (ORDERS, Raw(1, HOME.encode(), b"nonsense")),
            (ORDERS, Raw(2, OTHER.encode(), a_number("fails", OTHER, "fail"))),
            (ORDERS, Raw(3, HOME.encode(), a_number("after"))),
        )

    assert [each["offset"] for each in alone.dead] == ["1", "2"]
    assert ids(alone) == [f"{id}:alone:{number}" for id in ("before", "after") for number in (0, 1)]
    assert tried >= 2
    assert "a dead letter goes without its answer" in caplog.text
    assert "the answer has a bug" in caplog.text


async def test_an_answer_that_has_to_wait_waits_with_its_dead_letter(make: Callable[..., Alone]) -> None:
    tried = 0

    def answer(work: UnitOfWork, spec: TopicSpec, raw: Any, error: BaseException) -> None:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise Transient("not now")
        work.emit(OUT, Number("answer", HOME, 1))

    alone = make(buried=[answer])
    await alone.take((ORDERS, Raw(0, HOME.encode(), b"nonsense")))

    assert tried == 3
    assert len(alone.dead) == len(alone.sent(OUT)) == 1


# -- what an agent refuses


def refuse(work: UnitOfWork, record: Record) -> None:
    """Refuse what says `poison`, pass on the rest."""
    if record.value is not None and record.value.then == "poison":
        work.refuse(ArithmeticError("absurd"))
    else:
        pass_on(work, record)


def a_flood() -> list[tuple[TopicSpec, Raw]]:
    """A hundred absurd records between each two good ones."""
    return [
        (REPORTS, Raw(n, HOME.encode(), a_number(str(n), then="poison" if n % 101 else ""), (("h", b"1"),)))
        for n in range(1_010)
    ]


async def test_refused_records_are_dead_letters_in_the_transaction_of_the_others(
    make: Callable[..., Alone],
) -> None:
    alone = make(handle=refuse)
    await alone.take(*a_flood())

    assert alone.commits == 1
    assert ids(alone)[::2] == [f"reports/1/{n}:alone:0" for n in range(0, 1_010, 101)]
    assert [each["offset"] for each in alone.dead] == [str(n) for n in range(1_010) if n % 101]
    (letter, *_) = alone.sent(DEAD_LETTERS)
    assert (letter.key, letter.value, letter.headers["h"]) == (
        HOME.encode(),
        a_number("1", then="poison"),
        b"1",
    )
    assert {"error": "ArithmeticError: absurd", "attempts": "1", "topic": "reports"}.items() <= alone.dead[
        0
    ].items()
    assert alone.quarantined == []
    assert alone.task.dead_letters.counts == {("reports", "ArithmeticError"): 1_000}


async def test_a_refused_record_is_answered_and_nothing_is_emitted_for_it_any_more(
    make: Callable[..., Alone],
) -> None:
    def answer(work: UnitOfWork, spec: TopicSpec, raw: Any, error: BaseException) -> None:
        work.emit(OUT, Number("answer", HOME, raw.offset))

    def go_on(work: UnitOfWork, record: Record) -> None:
        work.refuse(ArithmeticError("absurd"))
        with pytest.raises(ValueError, match="needs an event_id"):
            work.emit(OUT, record.value)

    alone = make(handle=go_on, buried=[answer])
    await alone.take((REPORTS, Raw(4, HOME.encode(), a_number())))
    assert ids(alone) == ["reports/1/4:alone:0"]
    assert len(alone.dead) == 1


async def test_a_flood_of_dead_letters_is_no_flood_of_lines(
    make: Callable[..., Alone], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(dead_letter, "time", clock)
    alone = make(handle=refuse)
    await alone.take(*a_flood())
    clock.monotonic = lambda: 101.0
    await alone.take((REPORTS, Raw(2_000, HOME.encode(), b"nonsense")))

    lines = [each.getMessage() for each in caplog.records if "dead letter" in each.getMessage()]
    assert len(lines) == dead_letter.LINES_A_SECOND + 2
    assert (
        lines[-2] == f"{1_000 - dead_letter.LINES_A_SECOND} more dead letters that were not logged one by one"
    )
    assert lines[-1].startswith("dead letter reports/1/2000, later records of key")


# -- what did not come from Kafka


async def test_what_did_not_come_from_kafka_can_be_buried_too(alone: Alone) -> None:
    async with unit_of_work(alone.task) as unit:
        unit.bury("venue/7/12", HOME.encode(), b"\xff", ValueError("no report"), headers=[("a", b"1")])
    async with unit_of_work(alone.task) as unit:
        unit.bury("venue/7/13", None, b"", WrongPartition("orders", b"k", 1, 2))

    first, second = alone.sent(DEAD_LETTERS)
    assert (first.key, first.value, first.headers["a"]) == (HOME.encode(), b"\xff", b"1")
    assert second.key is None
    told = alone.dead[0]
    assert int(told.pop("timestamp")) > 0
    assert told == {
        "service": "alone",
        "source": "venue/7/12",
        "error": "ValueError: no report",
        "attempts": "1",
    }
    assert alone.quarantined == []
    assert alone.task.dead_letters.counts == {("outside", "ValueError"): 1, ("outside", "WrongPartition"): 1}


async def test_what_is_too_large_of_it_goes_there_cut(alone: Alone) -> None:
    async with unit_of_work(alone.task) as unit:
        unit.bury(
            "v/1", b"k" * 100_000, b"v" * 9_000_000, ValueError("e" * 9_000), headers=[("a", b"h" * 99_999)]
        )

    (letter,) = alone.sent(DEAD_LETTERS)
    assert sum(map(len, (letter.key or b"", letter.value or b"", *letter.headers.values()))) < 200_000
    assert "a value of 9000000" in alone.dead[0]["cut"]


# -- key shards


def by_shard(**more: Any) -> Table:
    return Table(APP, name=f"shards-{uuid4()}", value_type=int, by_shard=True, **more)


async def test_a_table_by_shard_takes_the_shards_of_its_partition_and_no_others(
    make: Callable[..., Alone],
) -> None:
    table = by_shard()
    alone = make(tables=[table])
    assert list(alone.task.shards) == list(range(1, 256, 4))
    async with unit_of_work(alone.task) as unit:
        for shard in alone.task.shards:
            unit[table][str(shard)] = shard
    assert len(list(alone.task.table(table).items())) == 64
    for key in ("2", "257", "01", "x"):
        with pytest.raises(ValueError, match="is no key shard of task alone-1"):
            async with unit_of_work(alone.task) as unit:
                unit[table][key] = 1
