"""A sample of the rows of each part of a recipe, opened as training would open them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import pyarrow.parquet

from training.data.skipped_rows import without_details
from training.data.sources import named_parts, part_entries, stream_part

from .named_files import NamedFile, named_files

_PLACES = 16  # of a part that its sample comes from: files are often sorted


@dataclass
class PartSample:
    """What is seen of a part.

    Attributes:
        name: what it is called.
        part: as the recipe has it.
        files: those that it names.
        rows: the number of its rows, good and bad; None where counting would mean to read all.
        looked_at: rows of the sample, which were opened.
        looked_up: rows whose texts were read, and the places of whose pictures were looked for, without opening them.
        bad: reason -> rows, of those looked up and of those opened.
        good: task and messages of the sample's good rows, without their pictures.
        example: the first of them, with pictures.
        problem: why nothing could be read.
    """

    name: str
    part: dict
    files: list[NamedFile]
    rows: int | None = None
    looked_at: int = 0
    looked_up: int = 0
    bad: Counter = field(default_factory=Counter)
    good: list[dict] = field(default_factory=list)
    example: dict | None = None
    problem: str | None = None

    @property
    def missing(self) -> list[str]:
        return [file.name for file in self.files if not file.found]

    @property
    def weight(self) -> float:
        return float(self.part.get("weight", 1))


def sample_parts(mixture: list[dict], sample_rows: int) -> list[PartSample]:
    """Of each part at most `sample_rows` rows, and no more pictures than theirs are opened."""
    samples = []
    for name, part in named_parts(mixture).items():
        sample = PartSample(name, part, named_files(part))
        samples.append(sample)
        if not sample.missing:
            try:
                _look(sample, sample_rows)
            except ValueError as error:
                sample.problem = str(error)
    return samples


def _look(sample: PartSample, sample_rows: int) -> None:
    stream = stream_part(sample.part, "train")
    entries = part_entries(sample.part, "train")
    if entries is None:
        sample.rows = _rows_of_parquet(sample.files)
    else:
        sample.rows = sample.looked_up = len(entries)
        problems = entries.data.column("problem").drop_null().to_pylist()
        sample.bad.update(map(without_details, problems))
    for lazy in _spread(stream.rows, sample_rows):
        sample.looked_at += 1
        try:
            row = stream.open(lazy)
        except ValueError as error:
            if entries is None or lazy["problem"] is None:  # else it was counted above
                sample.bad[without_details(str(error))] += 1
            continue
        sample.example = sample.example or row
        sample.good.append({"task": row["task"], "messages": row["messages"]})
    if not sample.good:
        sample.problem = f"none of {sample.looked_at} rows is good"
    elif sample.bad and stream.on_error == "raise":
        sample.problem = "has bad rows, at which training stops: repair them, or set on_error: skip"


def _spread(rows: datasets.IterableDataset, number: int) -> Iterator[dict]:
    """Some rows, from several places of a stream."""
    places = min(_PLACES, rows.num_shards, number)
    ends = [number * place // places for place in range(places + 1)]
    for place in range(places):
        yield from islice(rows.shard(places, place), ends[place + 1] - ends[place])


def _rows_of_parquet(files: list[NamedFile]) -> int | None:
    """Told by the files' last lines; None for other files and for none."""
    paths = [path for file in files for path in file.found]
    if not paths or any(Path(path).suffix != ".parquet" for path in paths):
        return None
    try:
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"a file is no Parquet: {error}") from error
