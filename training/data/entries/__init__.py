"""What a row of a file becomes: an entry, and of that a row of the one schema, or a sentence about what is wrong."""

from .bad_rows import OnError
from .entry import Entry, Reader, as_stream, keep_entries, load_entries
from .opening import open_row
from .rows import Needs, to_row

__all__ = [
    "Entry",
    "Needs",
    "OnError",
    "Reader",
    "as_stream",
    "keep_entries",
    "load_entries",
    "open_row",
    "to_row",
]
