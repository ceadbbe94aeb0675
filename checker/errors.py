"""What keeps the checker from checking; the command line prints it as one line, exit status 2."""


class CheckerError(Exception):
    """The log or the ledger can't be read: says which, why, and what to do."""
