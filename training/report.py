"""What the evaluation scripts share: where they run, and how they tell what they measured."""

import json
from collections.abc import Sequence

import torch

HELD_OUT = "held_out_"  # prefix of results over scenes with a pair of objects that no training scene has


def choose_device(name: str | None) -> torch.device | str:
    """The device of this name; by default the accelerator, or the CPU without one."""
    if name is not None:
        return name
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


def format_rows(rows: Sequence[tuple[str, str, str]], results: dict[str, float]) -> str:
    """A table of results, one column for all scenes and, if there are such results, one for those held out.

    Args:
        rows: (title, key in results, format) of each line; lines without a result are left out. The first is always
            there, and tells by its key which columns are.
    """
    count = rows[0][1]
    columns = {"all": "", "held-out pairs": HELD_OUT}
    columns = {title: prefix for title, prefix in columns.items() if prefix + count in results}
    lines = [" " * 42 + "".join(f"{title:>16}" for title in columns)]
    for title, key, form in rows:
        if key in results:
            values = (results.get(prefix + key) for prefix in columns.values())
            cells = ("-" if value is None else f"{value:{form}}" for value in values)
            lines.append(f"{title:42}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def write_results(path: str, arguments, results: dict[str, float]) -> None:
    """A JSON file with the results and the arguments (a dataclass) that gave them."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"arguments": vars(arguments), "results": results}, file, indent=2)
