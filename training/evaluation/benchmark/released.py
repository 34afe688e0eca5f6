"""Files of a release: found in the folder that a user gives, and checked as they are read."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from training.data.entries.values import listed, quoted


def released(data: Path, *names: str, remedy: str = "") -> Path:
    """The first of some files or folders that is there; names are relative to `data`.

    Raises:
        ValueError: none is; `remedy` says what to do.
    """
    for name in names:
        if (data / name).exists():
            return data / name
    raise ValueError(f"There is no {' or '.join(names)} in {data}. {remedy}".rstrip())


def read_text(file: Path) -> str:
    """What a file in UTF-8 holds, line ends as they are; a ValueError for another that names it."""
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8: {error}") from error


def some(value: object, what: str) -> list:
    """The value, which must be a list of one thing or more; else a ValueError."""
    if not listed(value, what):
        raise ValueError(f"{what} must not be empty")
    return value


def checked(records: Iterable[object], where: object, **fields: Callable) -> Iterator[dict]:
    """The records of a list, each an object with these fields, as the check of each says.

    Args:
        where: they stand; an error names it.
        fields: to each name a check of `training.data.entries.values`.
    """
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not fields.keys() <= record.keys():
            raise ValueError(f"{where}, entry {number}: needed are {', '.join(fields)}, not {quoted(record)}")
        for name, check in fields.items():
            check(record[name], f"{where}, entry {number}: {name!r}")
        yield record
