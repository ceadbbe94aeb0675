"""What counts as text."""


def is_text(text: str) -> bool:
    """A shell hands on bytes that are no UTF-8 as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
