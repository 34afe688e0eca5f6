"""For tests of readers."""

import warnings

from training.data.readers.entries import Reader, load_entries, stream_entries
from training.data.schema import FEATURES


def read_entries(reader: Reader, **arguments) -> tuple[list[dict], list[str]]:
    """The good rows of a reader, pictures as paths, and what is wrong with the others, each with its place; the same
    from a stream as from all at once."""
    stream = list(stream_entries(reader, **arguments))
    problems = [f"{row['origin']}: {row['problem']}" for row in stream if row["problem"] is not None]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = list(load_entries(reader, "data", "skip", **arguments))
    assert [line for warning in told for line in str(warning.message).split("\n  ")[1:]] == problems
    lazy = [
        {key: row[key] for key in FEATURES} | {"images": [picture["path"] for picture in row["images"]]}
        for row in stream
        if row["problem"] is None
    ]
    assert [row | {"images": [picture.filename for picture in row["images"]]} for row in loaded] == lazy
    return lazy, problems
