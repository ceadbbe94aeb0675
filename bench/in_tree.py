"""`python -m bench.in_tree TREE COMMAND …`: `python -m app COMMAND …` of a checkout, ended with the bench.

The processes that the command starts run in the checkout's directory, so they are its own as well.
"""

import os
import runpy
import sys

from bench.worker import end_with_parent


def main() -> None:
    end_with_parent()
    tree = sys.argv[1]
    os.chdir(tree)
    sys.path[0] = tree
    sys.argv[:2] = ["app"]
    runpy.run_module("app", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
