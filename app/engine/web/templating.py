"""The web view's templates and static files. Whatever a template prints is escaped, unless it is Markup."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.engine.core import health

HERE: Final = Path(__file__).parent
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Static(NamedTuple):
    """A file that pages name: its content, its type and its address, which changes with the content."""

    content: bytes
    content_type: str
    path: str


def visible(text: str) -> str:
    """Characters that cannot be seen, or that change the order of others, as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else f"\\u{ord(each):04x}" for each in text)


def printed(value: Any) -> Any:
    """What a template prints for a value; Jinja escapes it then."""
    return value if isinstance(value, Markup) else visible(str(value))


def as_it_is(text: str) -> Markup:
    """Text for a form's field, which is sent back: escaped, but with all its characters."""
    return escape(text)


def numeral(value: int) -> str:
    return f"{value:,}"


def ranges(numbers: Any) -> str:
    """Partition numbers for people: 0–3, 5."""
    return health.ranges(numbers, dash="–")


def moment(time_ms: int) -> str:
    """A time in UTC; one that no clock has ever shown, as producers may make up, is its milliseconds."""
    try:
        seen = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
    return f"{seen:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03}"


def shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[:chars_max] + "…"


def _static_files() -> dict[str, Static]:
    return {
        path.name: Static(path.read_bytes(), TYPES[path.suffix], _address(path))
        for path in sorted((HERE / "static").iterdir())
    }


def _address(path: Path) -> str:
    return f"/static/{path.name}?{sha256(path.read_bytes()).hexdigest()[:12]}"


STATIC: Final = _static_files()


def templates(**functions: Any) -> Environment:
    """The templates, each compiled once; `functions` can be called in them."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printed,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    filters = (numeral, ranges, shortened, as_it_is, moment)
    made.filters |= {each.__name__: each for each in filters}
    made.globals |= {"static": lambda name: STATIC[name].path, **functions}
    for name in made.list_templates(extensions=["html"]):
        made.get_template(name)
    return made
