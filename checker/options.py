"""The options of `check`; light on imports."""

from argparse import ArgumentParser
from pathlib import Path


def check_arguments(parser: ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--bootstrap", metavar="B", help="default: the configured cluster")
    parser.add_argument("--data-dir", type=Path, metavar="D", help="default: PIPELINE_DATA_DIR")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="default: the venue's in the data directory"
    )
    parser.add_argument(
        "--ended",
        action="store_true",
        help="every order has ended and nothing moves: what is missing is lost; default: find out what moves",
    )
    parser.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="URL",
        help="compare this worker's live tables too (I6)",
    )
