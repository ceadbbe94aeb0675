"""`python -m app topology`: the services and how topics lead from one to the next."""

import json
from collections.abc import Iterator
from typing import Any

from app.topology import SERVICES, WEB_PORTS, Service
from models.registry import TABLES


def show(*, as_json: bool, as_dot: bool) -> int:
    """Print it; gives the exit status."""
    lines = [json.dumps(described(), indent=2)] if as_json else dot() if as_dot else text()
    print("\n".join(lines))
    return 0


def described() -> dict[str, dict[str, Any]]:
    """Each service as plain data."""
    return {
        name: {
            "web_port": WEB_PORTS[name],
            "inputs": list(each.inputs),
            "reads": list(each.reads),
            "outputs": list(each.outputs),
            "tables": tables(each),
        }
        for name, each in SERVICES.items()
    }


def text() -> Iterator[str]:
    """A paragraph a service."""
    for name, each in SERVICES.items():
        yield f"{name}, port {WEB_PORTS[name]}"
        yield f"    takes in  {', '.join(each.inputs)}"
        if each.reads:
            yield f"    looks up  {', '.join(each.reads)}"
        yield f"    keeps     {', '.join(tables(each))}"
        yield f"    puts out  {', '.join(each.outputs)}"


def dot() -> Iterator[str]:
    """A graph: services are boxes; a dashed arrow is a topic that is held whole in memory."""
    yield "digraph pipeline {"
    yield "    rankdir=LR; node [fontname=Helvetica];"
    for name, each in SERVICES.items():
        yield f'    "{name}" [shape=box, style=bold];'
        yield from (f'    "{topic}" -> "{name}";' for topic in each.inputs)
        yield from (f'    "{topic}" -> "{name}" [style=dashed];' for topic in each.reads)
        yield from (f'    "{name}" -> "{topic}";' for topic in each.outputs)
    yield "}"


def tables(service: Service) -> list[str]:
    """The service's own tables; every service has `quarantine` besides."""
    return [table.partition(".")[2] for table in TABLES if table.startswith(f"{service.name}.")]
