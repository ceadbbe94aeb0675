"""HTML that is escaped by construction: only `element` and `join` make Html, and they escape all else."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is markup already."""


def element(name: str, /, *content: object, **attributes: object) -> Html:
    """An element with its content in order; None is left out, what is not Html is escaped.

    An attribute that is None is left out; in names a trailing `_` is dropped, one inside is a hyphen.
    """
    written = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Contents one after the other, escaped where they are not Html."""
    return Html(
        "".join(each if isinstance(each, Html) else _text(each) for each in content if each is not None)
    )


def _text(value: object) -> str:
    return escape(visible(str(value)))


def visible(text: str) -> str:
    """Characters that cannot be seen, or that change the order of others, as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else f"\\u{ord(each):04x}" for each in text)


CSS = """
:root {
  color-scheme: light dark;
  --text: #1c2128; --soft: #626c7a; --line: #e2e6eb; --paper: #fff; --shade: #f5f7f9;
  --link: #0b5cad; --good: #1a7f4b; --bad: #b3261e; --warn-line: #d9a300; --warn: #fff8e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #dfe4ea; --soft: #929dab; --line: #2c333c; --paper: #14181d; --shade: #1c2229;
    --link: #76b3f5; --good: #4cc38a; --bad: #ff8a80; --warn-line: #8a6d00; --warn: #2b2510;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
header, main, footer { padding: 0 max(24px, calc((100% - 1080px) / 2)); }
header {
  display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: baseline;
  padding-top: 14px; padding-bottom: 10px; border-bottom: 1px solid var(--line);
}
header .name { font-weight: 650; font-size: 17px; color: var(--text); }
header nav { display: flex; flex-wrap: wrap; gap: 2px 14px; }
header .here { color: var(--text); font-weight: 600; }
header .services { margin-left: auto; }
footer { color: var(--soft); font-size: 13px; padding-top: 20px; padding-bottom: 28px; }
h1 { font-size: 22px; font-weight: 650; margin: 22px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 16px; font-weight: 650; margin: 26px 0 6px; }
p { margin: 4px 0 10px; max-width: 80ch; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: 5px 18px 5px 0; }
tr { border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; white-space: nowrap; }
td.number, th.number { text-align: right; }
tbody tr:hover { background: var(--shade); }
table.records { table-layout: fixed; }
table.records th:first-child { width: 30%; }
table.records th.number { width: 90px; }
td.key { overflow-wrap: anywhere; }
table.fields td { white-space: nowrap; }
td.field, table.fields td.number { font: 13px/1.55 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
@media (max-width: 640px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  header .services { margin-left: 0; }
  table.records { table-layout: auto; }
  td.value { max-width: 60vw; }
}
td.value {
  color: var(--soft); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; padding-right: 0;
}
span.offset { display: inline-block; margin-right: 14px; white-space: nowrap; color: var(--soft); }
span.offset b { color: var(--text); font-weight: 500; }
code, pre, td.key, td.value { font: 13px/1.55 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre {
  background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  padding: 14px 16px; margin: 12px 0; overflow-x: auto;
}
pre .words { color: var(--good); margin-left: 2ch; }
form { display: flex; flex-wrap: wrap; gap: 8px; margin: 14px 0; }
input, select, button {
  font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; padding: 5px 10px;
}
input[type=search] { flex: 1 1 260px; }
button { background: var(--shade); cursor: pointer; }
.missing {
  border-left: 3px solid var(--warn-line); background: var(--warn); padding: 8px 14px; margin: 12px 0;
}
.missing ul { margin: 4px 0; padding-left: 20px; }
.pager { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 14px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 10px 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
"""
