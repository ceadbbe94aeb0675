"""`python -m app COMMAND`. Ctrl-C ends it without a traceback from the first import on.

The command line is `cli`, the layer above all others: it is found here by its name, and nothing of it is
imported.
"""

import os
import signal
import sys
from importlib import import_module

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - before any import that an older one can't read
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        print(
            f"error: Python 3.11 or newer is needed, this is {found}; use .venv/bin/python (`make run`)",
            file=sys.stderr,
        )
        sys.exit(2)
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        # an exception in the middle of an import may be lost in a callback of the interpreter's
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        main = import_module("cli.main").main
        signal.signal(signal.SIGINT, interrupted)
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
