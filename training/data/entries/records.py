"""Records of annotation files: checked before they are used, found by their id; what is wrong is told where it stands.

Readers handle places: pairs of where something stands in a file and a function that makes it, or says in a ValueError
what is wrong with it.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from .values import quoted

Made = TypeVar("Made")
Place = tuple[str, Callable[[], Made]]
_LARGEST = 2**31 - 1  # pixels on a side, and number of a picture


def checked(record: object, **fields: Callable) -> dict:
    """The record, which must be an object with these fields, each as its check of `values` says; else a ValueError."""
    if not isinstance(record, dict) or not fields.keys() <= record.keys():
        raise ValueError(f"needed are the fields {', '.join(fields)}, not {quoted(record)}")
    for name, check in fields.items():
        check(record[name], name)
    return record


def good_records(records: list, where: str, bad: list[Place], **fields: Callable) -> dict[int, dict]:
    """Of a list in a file the records that pass `checked`, by their place in it; the others go to `bad`."""
    good = {}
    for number, record in enumerate(records):
        try:
            good[number] = checked(record, **fields)
        except ValueError as error:
            bad.append((f"{where}, entry {number}", refusal(error)))
    return good


class ById(dict):
    """Records by the field that names them. Asked for one that none has, or several, it raises a ValueError."""

    def __init__(self, what: str, records: Iterable[dict], field: str = "id"):
        super().__init__()
        self.what, self.field, self.repeated = what, field, set()
        for record in records:
            if record[field] in self:
                self.repeated.add(record[field])
            self[record[field]] = record

    def __getitem__(self, key: object) -> dict:
        if key in self.repeated:
            raise ValueError(f"more than one {self.what} has the {self.field} {quoted(key)}: which is meant?")
        return super().__getitem__(key)

    def __missing__(self, key: object) -> dict:
        raise ValueError(f"no {self.what} has the {self.field} {quoted(key)}")


def settled(make: Callable[[], Made | None]) -> Callable[[], Made] | None:
    """`make` after it was called: a function that does the same, without the work. None if there is nothing."""
    try:
        made = make()
    except ValueError as error:
        return refusal(error)
    return None if made is None else lambda: made


def refusal(error: ValueError) -> Callable[[], None]:
    """A function that says what is wrong again."""
    return partial(_refuse, str(error))


def whole_number(value: object, what: str, least: int = 0) -> int:
    """The value, which must be a whole number of at least this, and of 31 bits; else a ValueError."""
    if type(value) is not int or not least <= value <= _LARGEST:
        raise ValueError(f"{what} must be a whole number from {least} to {_LARGEST}, not {quoted(value)}")
    return value


def number(value: object, what: str) -> int | float:
    """The value, which must be a number of less than 32 bits; else a ValueError."""
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:  # as NaN is not
        raise ValueError(f"{what} must be a number, not {quoted(value)}")
    return value


def one_line(value: str) -> str:
    return " ".join(value.split())


def _refuse(message: str) -> None:
    raise ValueError(message)
