"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A path to write to that becomes `file` at the end: who is stopped in between leaves the old one, or none, and
    several processes do not write into one another."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    yield part
    part.replace(file)
