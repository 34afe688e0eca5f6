"""What the evaluation scripts share: where they run, and how they tell what they measured."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

HELD_OUT = "held_out_"  # prefix of results over scenes with a pair of objects that no training scene has


def choose_device(name: str | None) -> torch.device | str:
    """The device of this name; by default the accelerator, or the CPU without one. A ValueError for one that is not
    there."""
    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # the latter without CUDA
            raise ValueError(f"There is no device {name!r}: {error}") from error
        return name
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


@contextmanager
def mistakes_in_words() -> Iterator[None]:
    """Ends a command, with status 1, by what is wrong with what it was given, in place of a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"Error: {error}")


@dataclass(frozen=True)
class Row:
    """A line of a table of results.

    Attributes:
        title: what was measured.
        key: of its value in the results.
        form: how the value and those beside it are written.
        beside: what the value is to be compared with; to the name of each its key.
    """

    title: str
    key: str
    form: str = ".3f"
    beside: Mapping[str, str] = field(default_factory=dict)


def format_rows(rows: Sequence[Row], results: Mapping[str, float]) -> str:
    """The table as text. Rows without a result are left out; the first is always there, and counts the pictures."""
    cells = list(_cells(rows, results))
    lines = []
    for title, *values, beside in cells:
        line = f"{title:45}" + "".join(f"{value:>16}" for value in values)
        lines.append(f"{line}  {beside}".rstrip())
    return "\n".join(lines)


def markdown_rows(rows: Sequence[Row], results: Mapping[str, float]) -> str:
    """The same table in Markdown."""
    header, *lines = _cells(rows, results)
    rule = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _cells(rows: Sequence[Row], results: Mapping[str, float]) -> Iterator[list[str]]:
    """Lines of title, value over all scenes and, where there is one, over those held out, and what is beside it."""
    columns = {"all": "", "held-out pairs": HELD_OUT}
    columns = {title: prefix for title, prefix in columns.items() if prefix + rows[0].key in results}
    yield ["", *columns, "beside it (all)"]
    for row in rows:
        if results.get(row.key) is not None:
            values = (_value(results, prefix + row.key, row.form) for prefix in columns.values())
            beside = (
                f"{name} {results[key]:{row.form}}" for name, key in row.beside.items() if results.get(key) is not None
            )
            yield [row.title, *values, ", ".join(beside)]


def _value(results: Mapping[str, float], key: str, form: str) -> str:
    """A result, and how much it varies from draw to draw where it was measured more than once."""
    if results.get(key) is None:
        return "-"
    spread = results.get(f"{key}_sd")
    return f"{results[key]:{form}}" + ("" if spread is None else f" ±{spread:{form}}")


def write_results(path: str, arguments, results: dict[str, float], data: Mapping[str, str] | None = None) -> None:
    """A JSON file with the results and the arguments (a dataclass) that gave them; of data of one's own also their
    "name", and in words the "rows" that were measured."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = {"arguments": vars(arguments)} | ({"data": dict(data)} if data else {}) | {"results": results}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
