"""Files of benchmarks, as released: found, read, and refused in words where they are missing or of another form."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.data.readers.values import quoted


def find_file(data: Path, *names: str) -> Path:
    """The first of some files (or folders) that is there, within the folder of a benchmark.

    Raises:
        ValueError: none is there: the folder is the wrong one, or a part of the release is missing.
    """
    for name in names:
        if (data / name).exists():
            return data / name
    raise ValueError(
        f"{data} has no {' and no '.join(names)}: give the folder that holds the benchmark's files as --data."
    )


def check_split(benchmark: str, split: str, splits: Sequence[str]) -> None:
    """Raises a ValueError unless a benchmark has this split."""
    if split not in splits:
        raise ValueError(f"{benchmark} has no split {split!r}: choose {' or '.join(splits)}.")


def read_json_lines(file: Path) -> list[dict]:
    """The objects of a JSONL file, one a line; else a ValueError."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} must hold an object, not {quoted(row)}")
        rows.append(row)
    return rows


def fields(row: object, where: str, **kinds: type | tuple[type, ...]) -> list:
    """Values of a row, each of the kind that its name has; else a ValueError that says where."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} must be an object, not {quoted(row)}")
    for name, kind in kinds.items():
        if not isinstance(row.get(name), kind):
            names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{where}: {name!r} must be {names}, not {quoted(row.get(name))}")
    return [row[name] for name in kinds]


def by_key(rows: Iterable[dict], name: str, where: str) -> dict:
    """Rows by one of their values, which must differ from row to row; else a ValueError."""
    found = {}
    for row in rows:
        (key,) = fields(row, where, **{name: (int, str)})
        if key in found:
            raise ValueError(f"{where} has {name} {key!r} twice")
        found[key] = row
    return found
