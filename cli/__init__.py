"""The command line: the outermost layer, which puts all parts together."""
