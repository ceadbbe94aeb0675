"""The web view's HTML: nothing from outside gets through as markup, links lead where they say."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from yarl import URL

from app.domain.risk import AccountRisk, Holding
from app.engine.state.table import Table
from app.engine.web.cluster import Absent, Missing, Neighbour, Overview, Page, Record, Worker
from app.engine.web.columns import at, columns
from app.engine.web.pages import JsonLines, Pages, record_path, table_path
from app.engine.web.read import Count, Query, Row, TaskState, WorkerState
from app.engine.web.templating import HERE as HERE_ON_DISK
from app.engine.web.templating import ranges, templates, visible
from app.units import Words
from tests.builders import BTC, ETH, listed

HERE, THERE = "http://127.0.0.1:7001", "http://127.0.0.1:7002"
POSITIONS = cast(Table, SimpleNamespace(name="positions", help="what is held"))
in_words = Words({"BTC-USD": BTC, "ETH-USD": ETH})
PAGES = Pages("risk", {"risk": "http://127.0.0.1:6102", "venue": "http://127.0.0.1:6109"}, in_words)
OUR_SCRIPT = '<script src="/static/refresh.js?'
EVIL = "</a><script>alert('1')</script>"


def a_row(key: str, value: bytes = b"{}", **changed: Any) -> Row:
    row: dict[str, Any] = {"key": key, "partition": 0, "bytes": len(value), "value": msgspec.Raw(value)}
    return Row(**(row | changed))


def a_page(*records: Row, query: Query | None = None, **changed: Any) -> Page:
    page: dict[str, Any] = {"searched": len(records), "next": None, "missing": []}
    return Page("risk", "positions", query or Query(), list(records), **(page | changed))


def listing(page: Page) -> str:
    return PAGES.listing(page, POSITIONS, [POSITIONS], HERE, 0.004)


def a_record(key: str, value: bytes) -> str:
    record = Record("risk", "positions", key, 3, THERE, msgspec.Raw(value))
    return PAGES.record(record, [POSITIONS], HERE, 0.002)


def rendered(source: str, **shown: Any) -> str:
    return templates().from_string(source).render(**shown)


def test_whatever_a_template_prints_is_escaped() -> None:
    source = (
        '{% macro bold(what) %}<b>{{ what }}</b>{% endmacro %}<p title="{{ t }}">{{ x }}{{ bold(x) }}</p>'
    )
    assert rendered(source, t='"', x="<i>&") == ('<p title="&#34;">&lt;i&gt;&amp;<b>&lt;i&gt;&amp;</b></p>')
    assert rendered("{{ x|join('; ') }}", x=["<", ">"]) == "&lt;; &gt;"


TEMPLATES = sorted((HERE_ON_DISK / "templates").iterdir())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.name))
def test_no_template_has_what_the_policy_refuses_or_prints_anything_unescaped(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape|<style|<script(?! src=)|\s(style|on\w+)\s*=", source)


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendered("{{ nothing }}")
    with pytest.raises(UndefinedError):
        rendered("{{ query.nothing }}", query=Query())


def test_a_field_of_a_form_keeps_every_character() -> None:
    assert rendered('<input value="{{ x|as_it_is }}">{{ x }}', x='\u202e"') == (
        '<input value="\u202e&#34;">\\u202e&#34;'
    )


def test_characters_that_hide_or_turn_text_are_shown_as_escapes() -> None:
    assert visible("Zoë مرحبا\n") == "Zoë مرحبا\n"
    assert visible("a\u202eb\x00\x1b") == "a\\u202eb\\u0000\\u001b"


@given(st.text(max_size=20))
def test_no_key_and_no_value_becomes_markup(text: str) -> None:
    hostile = EVIL + text
    value = msgspec.json.encode({hostile: hostile})
    fields = msgspec.json.encode({hostile: {hostile: hostile}, "n": 1})
    missing = [Missing(hostile, [1], hostile)]

    shown = [
        listing(a_page(a_row(hostile, value), query=Query(text=hostile, after=hostile), missing=missing)),
        listing(a_page(a_row(hostile, text=hostile, key_cut=True))),
        listing(a_page(a_row("1", fields), a_row("2", fields))),
        a_record(hostile, value),
        PAGES.absent(POSITIONS, hostile, Absent(1, HERE, [hostile], missing, True), [POSITIONS], HERE),
        PAGES.refusal(hostile, hostile, [POSITIONS], HERE),
    ]

    for html in shown:
        assert html.count("<script") == html.count(OUR_SCRIPT) <= 1
        assert "alert(&#39;1&#39;)" in html


@given(st.text(min_size=1, max_size=30))
def test_the_address_of_a_key_is_one_segment_that_reads_back(key: str) -> None:
    url = URL(HERE + record_path("positions", key), encoded=True)

    if "key" in url.query:
        assert key in {".", ".."}
    else:
        assert url.raw_path.count("/") == 3
        assert URL(str(url)).parts[3].replace("%2F", "/").replace("%25", "%") == key


def test_a_slash_in_a_key_is_encoded() -> None:
    assert record_path("reservations", "acc-1/acc-1-5") == "/tables/reservations/acc-1%2Facc-1-5"
    assert record_path("reservations", "50%2F", api=True) == "/api/tables/reservations/50%252F"


def test_keys_that_a_browser_would_resolve_away_go_into_the_query() -> None:
    assert record_path("positions", "..") == "/tables/positions/?key=.."
    assert record_path("positions", "") == "/tables/positions/?key="


def test_the_next_page_keeps_the_search() -> None:
    query = Query(text="a b&", match="start", limit=2, after="a b&1")

    html = listing(a_page(a_row("a b&2"), query=query, next="a b&3"))

    assert 'href="/tables/positions/?q=a+b%26&amp;match=start&amp;limit=2&amp;after=a+b%263"' in html
    assert 'href="/tables/positions/?q=a+b%26&amp;match=start&amp;limit=2"' in html  # the first page
    assert table_path("positions", Query()) == "/tables/positions/"


def test_a_bounded_search_says_how_far_it_looked() -> None:
    html = listing(a_page(query=Query(text="zz"), searched=50_000, next="k"))

    assert "0 found in the 50,000 records searched, there are more" in html
    assert "Next »" in html


def test_a_worker_that_did_not_answer_is_named() -> None:
    html = listing(a_page(a_row("a"), missing=[Missing(THERE, [4, 5, 6], "no answer within 2 s")]))

    assert f"partitions 4–6 of {THERE}: no answer within 2 s" in html


def test_long_keys_and_values_are_shortened() -> None:
    html = listing(a_page(a_row("k" * 300, b'"' + b"v" * 300 + b'"'), a_row("l" * 500, key_cut=True)))

    assert "k" * 121 not in html.replace(record_path("positions", "k" * 300), "")
    assert "v" * 161 not in html
    assert "l" * 120 + "…<span" in html
    assert "too long for a link" in html


def test_a_record_says_where_it_is_and_what_its_integers_mean() -> None:
    holding = Holding(position_lots=-15_000, reference_price_ticks=90_000)
    account = AccountRisk(holdings={"BTC-USD": holding}, last_sequence=7)

    html = a_record("acc-1", msgspec.json.encode(account))

    assert f'<dt>partition</dt><dd>3</dd>\n<dt>worker</dt><dd><a href="{THERE}/">' in html
    assert '&#34;position_lots&#34;: -15000,<span class="words">-1.5000 BTC</span>' in html
    assert '&#34;reference_price_ticks&#34;: 90000<span class="words">900.00 USD</span>' in html


def test_a_huge_record_is_cut() -> None:
    html = a_record("acc-1", msgspec.json.encode(["x" * 100] * 10_000))

    assert len(html) < 400_000
    assert "Only the beginning is shown" in html


def test_lines_of_json_are_json() -> None:
    value = {"a": [], "b": {}, "c": [1, {"d": None, "e": [True, [2]]}], "f": "é"}

    text = "".join(line for line, _ in JsonLines(in_words).of(value))

    assert msgspec.json.decode(text) == value


def test_the_page_of_an_absent_record_names_table_key_partition_and_worker() -> None:
    html = PAGES.absent(POSITIONS, "acc/9", Absent(5, THERE, [THERE, HERE], [], True), [POSITIONS], HERE)

    assert "No such record" in html
    for told in ("positions", "acc/9", f"partition 5, worker {THERE}", f"{THERE}, {HERE}"):
        assert told in html


def test_the_page_of_a_record_whose_worker_is_silent_does_not_deny_it() -> None:
    missing = [Missing(THERE, [5], "cannot be reached")]

    html = PAGES.absent(POSITIONS, "acc-9", Absent(5, THERE, [HERE], missing, False), [POSITIONS], HERE)

    assert "No such record" not in html
    assert "cannot be reached" in html


def test_the_overview_shows_tables_tasks_workers_and_services() -> None:
    task = TaskState(0, True, None, 1_234, 56, {"orders": 77})
    fenced = TaskState(1, False, "newer owner", 0, 0, {})
    counts = [Count("positions", 0, 40, True, 88), Count("positions", 1, 2, True, 9)]
    own = WorkerState("risk", False, [task, fenced], counts)
    silent = Worker(THERE, [2, 3], None, "cannot be reached")
    neighbours = [Neighbour("risk", HERE, True), Neighbour("venue", "http://127.0.0.1:6109", False)]
    overview = Overview("risk", HERE, False, [Worker(HERE, [0, 1], own, ""), silent], neighbours)

    html = PAGES.overview(overview, [POSITIONS], 0.01)

    for told in ("not ready", "over 42", "0–1", "2–3", "1,234", "orders <b>77</b>", "positions <b>88</b>"):
        assert told in html
    assert 'title="newer owner">fenced' in html
    assert "cannot be reached" in html
    assert '<span class="bad">not reachable</span>' in html


def test_runs_of_partitions_are_told_short() -> None:
    assert ranges([3, 0, 1, 5]) == "0–1, 3, 5"
    assert ranges([]) == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("price_ticks", 90_000, None),
        ("submitted_at_ms", 1_385_337_600_007, "2013-11-25 00:00:00.007 UTC"),
        ("submitted_at_ms", 10**18, None),
        ("price_age_ms_max", 1_500, "1.5 s"),
        ("price_collar_bps", 25, "0.25 %"),
        ("gross_exposure_micros_max", 1_234_567_890_000, "1,234,567.89 USD"),
        ("sequence", 7, None),
    ],
)
def test_units_without_an_instrument(name: str, value: int, words: str | None) -> None:
    assert in_words((name,), value, ({name: value},)) == words


def test_the_instrument_is_the_nearest_one_named() -> None:
    outer = {"symbol": "ETH-USD", "quantity_lots": 5}

    assert in_words(("quantity_lots",), 5, (outer,)) == "0.005 ETH"
    assert in_words(("holdings", "BTC-USD", "open_lots"), 5, (outer, {}, {})) == "0.0005 BTC"
    assert in_words(("order", "open_lots"), 5, ({}, {"symbol": "unknown"})) is None
    profit: tuple[dict[str, Any], ...] = ({}, {}, {}, {})
    assert in_words(("holdings", "ETH-USD", "profit", "cost_tick_lots"), -150_000, profit) == "-1.50 USD"
    assert in_words(("holdings", "unknown", "profit", "cost_tick_lots"), -150_000, profit) is None


def test_the_units_are_those_of_the_instruments_in_force_at_the_time() -> None:
    in_force = {"BTC-USD": BTC}
    words, price = Words(in_force), {"symbol": "BTC-USD", "price_ticks": 900}
    assert words(("price_ticks",), 900, (price,)) == "9.00 USD"

    in_force["BTC-USD"] = listed(tick="0.5", lot="0.000002", scale=2)
    assert words(("price_ticks",), 900, (price,)) == "450.0 USD"


def test_cash_is_not_given_a_currency_that_nobody_can_tell() -> None:
    in_force = {"BTC-USD": BTC, "BTC-EUR": listed(symbol="BTC-EUR", currency="EUR")}

    assert Words(in_force)(("limit_micros",), 2_000_000, ({},)) == "2.00"
    assert Words({})(("limit_micros",), 2_000_000, ({},)) == "2.00"


def test_the_fields_of_values_that_are_alike_stand_side_by_side() -> None:
    html = listing(
        a_page(
            a_row("BTC-USD", b'{"instrument":{"symbol":"BTC-USD","tick":"0.01"},"version":1,"held":{"a":1}}'),
            a_row("ETH-USD", b'{"instrument":{"symbol":"ETH-USD","tick":"0.10"},"version":23,"held":{}}'),
        )
    )
    heads = ("instrument.symbol", "instrument.tick", '<th class="number">version</th>', "<th>held</th>")
    assert all(each in html for each in heads)
    assert '<td class="field">0.10</td><td class="number">23</td><td class="field">{}</td>' in html
    assert "{&#34;a&#34;: 1}" in html, "what an object names differently in each value stays whole"


@pytest.mark.parametrize(
    "values",
    [
        [1, {"a": 1}],
        [{}],
        [],
        [{str(number): number for number in range(25)}],
    ],
    ids=str,
)
def test_other_values_have_no_columns(values: list[Any]) -> None:
    assert columns(values) == []


def test_a_field_that_a_value_lacks_is_empty() -> None:
    assert columns([{"a": 1}, {"b": {"c": 2}}]) == [("a",), ("b",)]
    assert [at({"a": {"b": 1}}, path) for path in (("a", "b"), ("a", "c"), ("a", "b", "d"))] == [
        1,
        None,
        None,
    ]
