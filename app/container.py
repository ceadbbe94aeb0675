"""The health check of a container: `python -m app.container` asks what its first process serves.

A worker is asked for `/ready`, the venue for `/health`; any other command is well while it runs. After a bad
answer the exit status is 1, and one line says why. It runs every few seconds: of ours it imports little more
than the settings.
"""

import argparse
import http.client
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from app.config import settings
from app.processes.ports import bare
from app.topology import WEB_PORTS

FIRST_PROCESS: Final = Path("/proc/1/cmdline")
ANSWER_S_MAX: Final = 3.0
SHOWN_CHARS_MAX: Final = 500


class Question(NamedTuple):
    """What to ask, and where."""

    host: str
    port: int
    path: str


def question(command: Sequence[str]) -> Question | None:
    """What to ask of a process with this command line; None for one that serves nothing."""
    told = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    told.add_argument("-A", "--app", default="")
    told.add_argument("-m", dest="module")
    told.add_argument("--host", default="127.0.0.1")
    told.add_argument("--web-port", "-p", "--port", dest="port", type=int)
    found, _ = told.parse_known_args([each for each in command if each != "--"])
    service = re.fullmatch(r"app\.(\w+)(:app)?", found.app)
    if service is not None and service[1] in WEB_PORTS:
        return Question(settings().web_host, found.port or WEB_PORTS[service[1]], "/ready")
    if found.module == "venue" and found.port:
        return Question(found.host, found.port, "/health")
    return None


def ask(asked: Question, token: str | None) -> str:
    """Why the answer is bad; "" when all is well."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(bare(asked.host), asked.port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", asked.path, headers=headers)
        response = connection.getresponse()
        said = response.read().decode(errors="replace")[:SHOWN_CHARS_MAX]
    except (OSError, http.client.HTTPException) as error:
        return f"http://{asked.host}:{asked.port}{asked.path} does not answer: {error}"
    finally:
        connection.close()
    return "" if response.status == http.HTTPStatus.OK else said


def main() -> int:
    """Ask; gives the exit status."""
    argparse.ArgumentParser(prog="python -m app.container", description=__doc__).parse_args()
    asked = question(FIRST_PROCESS.read_bytes().decode(errors="replace").split("\0"))
    why = "" if asked is None else ask(asked, settings().reveal_venue_token())
    if why:
        print(why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
