"""Alpaca: instructions and answers in text."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import read_json
from ..entries.values import quoted


def read_alpaca(file: str | Path) -> Iterator[Entry]:
    """Reads `alpaca_data.json` (github.com/tatsu-lab/stanford_alpaca, 52002 rows, CC BY-NC 4.0), or another file of its
    form: a list of `{"instruction": "...", "input": "..." or "", "output": "..."}`.

    One row of task "conversation" for each: the user gives the instruction and, in a new line, the input if there is
    one, without the sentences that Alpaca's own prompt puts around them.

    Raises:
        ValueError: the file is not a JSON list.
    """
    for number, entry in enumerate(read_json(Path(file), list)):
        yield Entry(f"{Path(file).name}, entry {number}", partial(_row, entry))


def _row(entry: object) -> dict:
    if not isinstance(entry, dict) or "instruction" not in entry:
        raise ValueError(f"an entry must be an object with instruction, input and output, not {quoted(entry)}")
    return {key: entry.get(key) for key in ("instruction", "input", "output")} | {"task": "conversation"}
