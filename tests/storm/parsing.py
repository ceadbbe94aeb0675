"""The storm's command line, parsed."""

from argparse import ArgumentParser, Namespace

from storm.options import storm_arguments


def parsed(*arguments: str) -> Namespace:
    parser = ArgumentParser()
    storm_arguments(parser)
    return parser.parse_args(arguments)
