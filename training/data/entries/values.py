"""Values as JSON has them, checked where they are read: whoever wrote the file may have written anything."""

import reprlib

_QUOTES = reprlib.Repr()
_QUOTES.maxstring = _QUOTES.maxother = 80


def quoted(value: object) -> str:
    """A value as an error names it: its beginning, whatever its size and depth."""
    return _QUOTES.repr(value)


def text(value: object, what: str) -> str:
    """The value, which must be text that says something and that a file can hold; else a ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be text, not {quoted(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half a character (a lone surrogate): {quoted(value)}") from error
    return value


def identifier(value: object, what: str) -> int | float | str:
    """The value, which must be a number or a text; else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{what} must be a number or a text, not {quoted(value)}")
    return value


def listed(value: object, what: str) -> list:
    """The value, which must be a list; else a ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not a {type(value).__name__}")
    return value
