"""The page of dead letters: what it finds, how far it looks, and what a hostile record can do to it."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import OffsetOutOfRangeError

from app.engine.kafka.cluster import EARLIEST, TP, Fetched
from app.engine.web import letters as web_letters
from app.engine.web.letters import LetterReader, Letters
from app.engine.web.pages import as_text, hex_lines
from app.engine.web.templating import moment
from tests.unit.test_web_site import Group, a_group

TOPIC = "dead-letters"
OUTSIDE = (0x00, 0x7F, 0x80, 0xFF)


def a_letter(
    offset: int,
    value: bytes | None = b"{}",
    *,
    service: str = "risk",
    key: bytes | None = b"acc-1",
    time_ms: int | None = None,
    came: Sequence[tuple[str, bytes | None]] = (),
    **told: str,
) -> Any:
    """A record of the topic as `DeadLetters` writes it; what it `came` with stands before."""
    origin = {"service": service, "topic": "orders", "partition": "0", "offset": str(offset)}
    why = {name.replace("_", "-"): text for name, text in told.items()} or {"error": "ValueError: no"}
    headers = [(f"dead-letter-{name}", text.encode()) for name, text in (origin | why).items()]
    return SimpleNamespace(
        offset=offset,
        timestamp=1_000 + offset if time_ms is None else time_ms,
        key=key,
        value=value,
        headers=(*came, *headers),
    )


class Log:
    """Kafka with one topic, as far as a reader of dead letters sees it; every call is counted."""

    def __init__(self, *partitions: list[Any], end: int | None = None, is_there: bool = True) -> None:
        self.partitions = partitions
        self.is_there = is_there
        self.fetches = 0
        self.connections = 0
        self._end = end

    def __call__(self, bootstrap: str, client_id: str) -> "Log":
        return self

    async def start(self) -> None:
        self.connections += 1

    async def stop(self) -> None:
        self.connections -= 1

    async def exists(self, topic: str) -> bool:
        return self.is_there and topic == TOPIC

    async def partition_count(self, topic: str) -> int:
        return len(self.partitions)

    async def offsets(self, tps: list[TP], which: int) -> dict[TP, int]:
        return {tp: self._bounds(tp)[which != EARLIEST] for tp in tps}

    def _bounds(self, tp: TP) -> tuple[int, int]:
        found = [each.offset for each in self.partitions[tp.partition]]
        return (found[0], found[-1] + 2) if found else (0, 0)  # a marker ends it

    async def fetch_from_one(
        self, positions: Mapping[TP, int], *, wait_ms: int, partition_bytes_max: int, lane: object
    ) -> list[Fetched]:
        self.fetches += 1
        await asyncio.sleep(0)
        ((tp, position),) = positions.items()
        taken: list[Any] = []
        size = 0
        for record in self.partitions[tp.partition]:
            if record.offset < position:
                continue
            size += len(record.value or b"") + 100
            if taken and size > partition_bytes_max:
                return [Fetched(tp, position, record.offset, 0, taken, size)]
            taken.append(record)
        return [Fetched(tp, position, self._bounds(tp)[1], 0, taken, size)]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Callable[[Log], Log]:
    def put(log: Log) -> Log:
        monkeypatch.setattr(web_letters, "Cluster", log)
        return log

    return put


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    async with a_group(tmp_path) as group:
        yield group


def a_reader() -> LetterReader:
    settings = SimpleNamespace(bootstrap="127.0.0.1:1", dead_letters=SimpleNamespace(name=TOPIC))
    return LetterReader(SimpleNamespace(conf=SimpleNamespace(id="risk"), settings=settings))


def places(found: Letters) -> list[tuple[int, int]]:
    return [(each.partition, each.offset) for each in found.letters]


async def test_the_last_letters_of_the_service_come_newest_first(kafka: Callable[[Log], Log]) -> None:
    one = [a_letter(0, time_ms=10), a_letter(1, service="compliance", time_ms=50), a_letter(3, time_ms=30)]
    log = kafka(Log(one, [], [a_letter(7, time_ms=20), a_letter(8, time_ms=40)]))

    found = await a_reader().last()

    assert places(found) == [(2, 8), (0, 3), (2, 7), (0, 0)]
    assert (found.searched, found.older, found.stopped) == (5, False, "")
    assert log.connections == 0


async def test_of_many_letters_the_last_are_shown_and_no_others_read(
    kafka: Callable[[Log], Log],
) -> None:
    log = kafka(Log([a_letter(offset) for offset in range(5_000)]))

    found = await a_reader().last(limit=10)

    assert places(found) == [(0, offset) for offset in range(4_999, 4_989, -1)]
    assert found.older
    assert found.searched <= web_letters.STEP
    assert log.fetches <= 2


async def test_letters_behind_many_of_another_service_are_found(kafka: Callable[[Log], Log]) -> None:
    others = [a_letter(offset, service="compliance") for offset in range(1, 5_000)]
    kafka(Log([a_letter(0), *others]))

    found = await a_reader().last()

    assert places(found) == [(0, 0)]
    assert found.searched == 5_000


async def test_large_letters_are_read_a_few_at_a_time(kafka: Callable[[Log], Log]) -> None:
    large = [a_letter(2 * number, b"x" * 300_000) for number in range(60)]
    kafka(Log([*large, a_letter(120)]))

    found = await a_reader().last(limit=20)

    assert places(found) == [(0, offset) for offset in range(120, 80, -2)]
    assert found.stopped == ""
    assert all(len(each.preview or "") <= web_letters.PREVIEW_BYTES_MAX for each in found.letters)
    assert {each.value_bytes for each in found.letters} == {2, 300_000}


async def test_no_more_bytes_are_read_than_allowed_and_the_answer_says_so(
    kafka: Callable[[Log], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_letters, "READ_BYTES_MAX", 1024 * 1024)
    log = kafka(Log(*[[a_letter(offset, b"x" * 300_000) for offset in range(50)] for _ in range(4)]))

    found = await a_reader().last()

    assert found.stopped == "1 MiB were read"
    assert found.older
    assert log.fetches <= 5


async def test_no_more_time_is_taken_than_allowed_and_the_answer_says_so(
    kafka: Callable[[Log], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_letters, "READ_S_MAX", 0.02)
    kafka(Log([a_letter(offset, service="compliance") for offset in range(20_000)]))
    started = time.monotonic()

    found = await a_reader().last()

    assert found.stopped == "it took 0.02 s"
    assert time.monotonic() - started < 1.0


async def test_a_topic_that_is_not_there_has_no_letters(kafka: Callable[[Log], Log]) -> None:
    kafka(Log(is_there=False))

    assert await a_reader().last() == Letters()
    assert await a_reader().one(0, 0) is None


async def test_one_letter_is_whole_and_where_there_is_none_there_is_none(kafka: Callable[[Log], Log]) -> None:
    kafka(Log([a_letter(5, b"\xff\x00", held_behind="orders/0/4"), a_letter(7)]))

    found = await a_reader().one(0, 5)

    assert found is not None
    assert (found.key, found.value) == (b"acc-1", b"\xff\x00")
    assert (found.letter.source, found.letter.behind, found.letter.error) == (
        "orders/0/5",
        "orders/0/4",
        None,
    )
    assert ("dead-letter-service", b"risk") in found.headers
    for partition, offset in ((0, 6), (0, 8), (0, 9), (0, 4), (0, 10**17), (1, 0)):
        assert await a_reader().one(partition, offset) is None


async def test_a_huge_letter_is_cut(kafka: Callable[[Log], Log]) -> None:
    came = [(f"h{number}", b"v" * 10_000) for number in range(1_000)]
    kafka(Log([a_letter(0, b"x" * 5_000_000, key=b"k" * 100_000, came=came, error="e" * 5_000)]))

    found = await a_reader().one(0, 0)

    assert found is not None
    assert found.letter.value_bytes == 5_000_000
    assert len(found.value or b"") == web_letters.VALUE_BYTES_MAX
    assert len(found.letter.key or "") == web_letters.KEY_BYTES_MAX
    assert len(found.letter.error or "") == web_letters.TEXT_CHARS_MAX
    assert len(found.headers) == web_letters.HEADERS_MAX
    assert found.headers[-1][0] == "dead-letter-error"
    assert max(len(value or b"") for _, value in found.headers) == web_letters.HEADER_BYTES_MAX


async def test_the_page_of_a_huge_letter_is_small(group: Group, kafka: Callable[[Log], Log]) -> None:
    junk = b"\xff" * 500_000
    kafka(Log([a_letter(0, junk, key=junk, came=[(f"h{number}", junk[:9_000]) for number in range(500)])]))

    status, page = await group.get("/dead-letters/0/0")

    assert status == 200
    assert len(page) < 400_000
    assert "500,000 bytes, of which the first 16,384 are shown" in page
    assert "The first 4,096 bytes." in page


async def test_a_client_cannot_tell_what_the_engine_tells(kafka: Callable[[Log], Log]) -> None:
    """A held record has no error and no attempts, whatever headers it came with."""
    came = [("dead-letter-service", b"compliance"), ("dead-letter-error", b"made up")]
    kafka(Log([a_letter(0, came=came, held_behind="orders/0/4"), a_letter(1, came=came, error="true")]))

    one, other = (await a_reader().last()).letters

    assert (one.service, one.error) == ("risk", "true")
    assert (other.service, other.error, other.behind) == ("risk", None, "orders/0/4")


async def test_what_did_not_come_from_kafka_has_its_source(kafka: Callable[[Log], Log]) -> None:
    letter = a_letter(0)
    letter.headers = [("dead-letter-service", b"risk"), ("dead-letter-source", b"venue/3/77")]
    bare = a_letter(1, None, key=None)
    bare.headers = [("dead-letter-service", b"risk")]
    kafka(Log([letter, bare]))

    unknown, venue = (await a_reader().last()).letters

    assert venue.source == "venue/3/77"
    assert (unknown.source, unknown.key, unknown.preview, unknown.value_bytes) == ("", None, None, 0)


HOSTILE = b"</pre><script>alert('1')</script>\xff\xfe\x00\xe2\x80\xae"
SHOWN = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\\xff\\xfe\\u0000\\u202e"


async def test_no_letter_becomes_markup(group: Group, kafka: Callable[[Log], Log]) -> None:
    evil = HOSTILE.decode("utf-8", "backslashreplace")
    came = [("<b>", HOSTILE), (evil, None)]
    letter = a_letter(
        0, HOSTILE, key=HOSTILE, came=came, error=evil, attempts=evil, held_behind=evil, cut=evil
    )
    kafka(Log([letter]))
    group.put("<i>", {"behind": "<script>", "held": 3}, table="quarantine", at=0)

    for path, count in (("/dead-letters/", 3), ("/dead-letters/0/0", 6)):
        status, page = await group.get(path)
        assert status == 200
        assert "<script" not in page
        assert "<b>" not in page
        assert "<i>" not in page
        assert page.count(SHOWN) >= count
        assert not any(each in page for each in ("\u202e", "\x00"))


async def test_the_page_lists_letters_and_links_to_each(group: Group, kafka: Callable[[Log], Log]) -> None:
    kafka(Log([a_letter(4, time_ms=1_385_337_600_007, error="ValueError: no", attempts="3")]))

    _, page = await group.get("/dead-letters/", 1)

    for told in (
        "2013-11-25 00:00:00.007",
        "ValueError: no",
        "acc-1",
        ">3</td>",
        "1 found in the last 1 records",
    ):
        assert told in page
    assert '<a href="/dead-letters/0/4">orders/0/4</a>' in page
    assert 'href="/dead-letters/"' in (await group.get("/"))[1]
    assert (await group.get("/dead-letters", 1))[0] == 200
    _, letter = await group.get("/dead-letters/0/4")
    for told in (
        "orders/0/4",
        "2013-11-25 00:00:00.007 UTC",
        "dead-letter-attempts",
        "000000  7b 7d  ",
        "{}",
    ):
        assert told in letter
    assert (await group.get("/dead-letters/0/5"))[0] == 404


async def test_the_page_lists_the_keys_that_wait_at_any_worker(
    group: Group, kafka: Callable[[Log], Log]
) -> None:
    kafka(Log())
    for number in range(web_letters.HELD_MAX + 1):
        group.put(f"acc-{number:02d}", {"behind": f"orders/1/{number}", "held": 7_000}, table="quarantine")

    status, page = await group.get("/dead-letters/")
    _, told = await group.json("/api/dead-letters/")

    assert status == 200
    for shown in ("acc-00", "orders/1/0", "7,000", '<a href="/tables/quarantine/">There are more</a>'):
        assert shown in page
    assert {each["partition"] for each in told["quarantine"]} == {0, 1, 2, 3}
    assert told["quarantine"][0].keys() == {"key", "partition", "behind", "held"}
    assert told["more_in_quarantine"]
    await group.runners[1].cleanup()
    assert "Missing here" in (await group.get("/dead-letters/"))[1]


async def test_letters_as_json(group: Group, kafka: Callable[[Log], Log]) -> None:
    kafka(Log([a_letter(4, bytes(OUTSIDE))]))

    status, told = await group.json("/api/dead-letters/")
    _, letter = await group.json("/api/dead-letters/0/4")

    assert status == 200
    assert told["found"]["letters"] == [letter["letter"]]
    assert base64.b64decode(letter["value"]) == bytes(OUTSIDE)
    status, absent = await group.json("/api/dead-letters/3/4")
    assert status == 404
    assert "dead-letters/3/4" in absent["error"]


@pytest.mark.parametrize("is_listening", [False, True])
async def test_when_kafka_is_away_the_page_says_so_and_shows_the_quarantine(
    group: Group, monkeypatch: pytest.MonkeyPatch, is_listening: bool
) -> None:
    """It may refuse the connection, or take it and say nothing."""
    monkeypatch.setattr(web_letters, "KAFKA_S_MAX", 0.3)
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    if is_listening:
        address = silent.sockets[0].getsockname()
        group.apps[0].settings.bootstrap = f"127.0.0.1:{address[1]}"
    group.put("acc-1", {"behind": "orders/0/4", "held": 3}, table="quarantine")

    async with asyncio.timeout(3):
        answers = [await group.get(path) for path in ("/dead-letters/", "/api/dead-letters/")]
        answers += [await group.get(path) for path in ("/dead-letters/0/1", "/api/dead-letters/0/1")]

    assert [status for status, _ in answers] == [503] * 4
    assert all("does not answer" in text for _, text in answers)
    assert all("orders/0/4" in text for _, text in answers[:2])
    silent.close()


async def test_what_kafka_refuses_is_said_and_the_quarantine_is_shown(
    group: Group, kafka: Callable[[Log], Log]
) -> None:
    class Refusing(Log):
        async def fetch_from_one(self, *_: Any, **__: Any) -> list[Fetched]:
            raise OffsetOutOfRangeError

    log = kafka(Refusing([a_letter(0)]))
    group.put("acc-1", {"behind": "orders/0/4", "held": 3}, table="quarantine")

    answers = [await group.get(path) for path in ("/dead-letters/", "/dead-letters/0/0")]

    assert [status for status, _ in answers] == [503] * 2
    assert all("refuses: OffsetOutOfRangeError" in text for _, text in answers)
    assert "orders/0/4" in answers[0][1]
    assert log.connections == 0


async def test_one_reads_at_a_time_and_waits_no_longer_than_allowed(
    group: Group, kafka: Callable[[Log], Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Log):
        at_once = most = 0

        async def exists(self, topic: str) -> bool:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(0.05)
            await goes_on.wait()
            self.at_once -= 1
            return await super().exists(topic)

    goes_on = asyncio.Event()
    goes_on.set()
    log = kafka(Slow([a_letter(0)]))
    answers = await asyncio.gather(*(group.get("/dead-letters/") for _ in range(5)))
    assert [status for status, _ in answers] == [200] * 5
    assert log.most == 1  # type: ignore[attr-defined]

    goes_on.clear()
    monkeypatch.setattr(web_letters, "KAFKA_S_MAX", 0.08)
    answers = await asyncio.gather(*(group.get("/dead-letters/") for _ in range(5)))
    assert [status for status, _ in answers] == [503] * 5
    assert all("try again" in text for _, text in answers)


def test_bytes_are_shown_as_text_and_in_hex() -> None:
    assert as_text(b"a\xff\xc3\xa9\n") == "a\\xffé\n"
    assert hex_lines(b"") == []
    assert hex_lines(b"<b>\x00" + bytes(13)) == [
        "000000  3c 62 3e 00 00 00 00 00 00 00 00 00 00 00 00 00  <b>.............",
        "000010  00                                               .",
    ]


@pytest.mark.parametrize(
    ("time_ms", "told"),
    [(0, "1970-01-01 00:00:00.000"), (-1, "1969-12-31 23:59:59.999"), (2**63 - 1, "9223372036854775807 ms")],
)
def test_a_time_that_no_clock_has_shown_is_told_as_it_is(time_ms: int, told: str) -> None:
    assert moment(time_ms) == told
