"""The concept bank of a mixture: the names that SeTok is to learn, which it must know before the first step, and rows
that have no others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import datasets

from .emoji_scenes import SceneConfig, concept_names
from .entries.bad_rows import Report
from .mixture import Mixture
from .readers.open_images import class_names
from .skipped_rows import SkippedRows
from .sources import named_parts, stream_part
from .streams import RowStream


def names_of_mixture(rows: Mixture | RowStream, parts: list[dict], files: Sequence[str]) -> list[str] | None:
    """The names of all concepts, each once; None if there are none.

    They are those in the files and those that EmojiScenes draws; without files, also those met in rows. A stream shows
    its rows too late for that.

    Args:
        rows: of the recipe's mixture.
        parts: that mixture.
        files: see `read_concept_names`.
    """
    names = names_in_advance(parts, files)
    if isinstance(rows, Mixture) and not files:
        stored = [part for part in rows.parts if isinstance(part, datasets.Dataset)]
        names += sorted({name for part in stored for of_row in part["concepts"] for name in of_row or ()})
    return list(dict.fromkeys(names)) or None


def names_in_advance(parts: list[dict], files: Sequence[str]) -> list[str]:
    """The names that are known before a row is read, see `names_of_mixture`."""
    drawn = [part for part in parts if part["dataset"] == "emoji_scenes"]
    names = [name for part in drawn for name in concept_names(part.get("vocabulary", SceneConfig.vocabulary))]
    return names + [name for file in files for name in read_concept_names(file)]


def read_concept_names(file: str | Path) -> list[str]:
    """The names in a text file, one on each line, or in Open Images' class descriptions (`.csv`).

    Raises:
        ValueError: the file cannot be read, or has no name.
    """
    if Path(file).suffix == ".csv":
        names = list(class_names(file).values())
    else:
        try:
            names = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
    if not names:
        raise ValueError(
            f"{file} has no names of concepts: one a line, or, in a .csv file, lines of LabelName,DisplayName"
        )
    return names


def with_known_names(rows: Mixture | RowStream, parts: list[dict], names: Sequence[str] | None) -> Mixture | RowStream:
    """The same rows, of which those with another name are bad rows: they are refused or left out, as their part's
    `on_error` says. Without their names they would teach that what they show is not there.

    Raises:
        ValueError: where they are to be refused, at once in a mixture; if no row of a part is left.
    """
    known = frozenset(names or ())
    if isinstance(rows, RowStream):
        return replace(
            rows, parts={name: replace(part, open=_Opener(part.open, known)) for name, part in rows.parts.items()}
        )
    for index, (name, part) in enumerate(zip(rows.names, rows.parts, strict=True)):
        if not isinstance(part, datasets.Dataset):
            continue  # EmojiScenes, whose names are known
        report = Report(name, named_parts(parts)[name].get("on_error", "raise"))
        checked = [
            report.attempt(f"row {row} of those read", partial(check_names, of_row or (), known))
            for row, of_row in enumerate(part["concepts"])
        ]
        kept = [row for row, is_good in enumerate(checked) if is_good]
        report.close(len(kept))
        if len(kept) < len(part):
            rows = rows.keep(index, kept)
    return rows


def held_out_rows(
    parts: list[dict], num_rows: int, names: Sequence[str] | None, skipped: SkippedRows | None = None
) -> list[dict]:
    """Rows to evaluate on: the first that a stream of their parts gives, always the same. No more are looked at.

    Data sets that have splits are read from "validation", unless the part names another.

    Args:
        parts: as a recipe's mixture, of files that training does not read.
        names: the concept bank.
        skipped: takes note of those that are left out.

    Raises:
        ValueError: what streams refuse; if a part has too few rows.
    """
    streamed = {
        f"{name} (held out)": stream_part(part, "validation", "picture") for name, part in named_parts(parts).items()
    }
    rows = with_known_names(RowStream(streamed, shuffle_buffer=1, skipped=skipped), parts, names)
    reader = rows.consumer(0, 1)
    found = list(islice(reader, num_rows))
    if again := [name for name, position in reader.state_dict()["parts"].items() if position["pass"]]:
        raise ValueError(f"{again[0]} has too few rows for eval_examples: {num_rows}; lower it, or the part's weight.")
    return found


def check_names(names: Sequence[str], known: frozenset[str]) -> bool:
    """True; a ValueError that names the first that is not known."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"the name {unknown[0]!r} is not among the {len(known)} of the concept bank: add it to a file of "
            "concept_names"
        )
    return True


@dataclass(frozen=True)
class _Opener:
    """Opens a row, and refuses one with a name that is not known."""

    open: Callable[[dict], dict]
    known: frozenset[str]

    def __call__(self, lazy: dict) -> dict:
        row = self.open(lazy)
        try:
            check_names(row["concepts"] or (), self.known)
        except ValueError as error:
            raise ValueError(f"{lazy['origin']}: {error}") from error
        return row
