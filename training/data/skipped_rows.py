"""Rows of streams that were left out or cut: each is noted in a file, whichever process and worker met it."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|0x[0-9a-f]+|\d+")  # what differs from row to row in a reason


@dataclass(frozen=True)
class SkippedRows:
    """A file with one JSON object for each row: `part`, `origin` (file and place) and `reason`.

    A row that comes again, in a later pass or in a run that goes on, is noted again, and counted once.
    """

    file: Path

    def note(self, part: str, origin: str, reason: str) -> None:
        line = json.dumps({"part": part, "origin": origin, "reason": reason}) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as file:  # one write of a line, which others cannot come between
            file.write(line)

    def counts(self) -> dict[tuple[str, str], int]:
        """(part, reason without its details) -> number of rows, most first."""
        if not self.file.is_file():
            return {}
        with open(self.file, encoding="utf-8") as file:
            noted = [json.loads(line) for line in file]
        rows = {(row["part"], row["origin"]): row["reason"] for row in noted}
        return dict(Counter((part, without_details(reason)) for (part, _), reason in rows.items()).most_common())


def without_details(reason: str) -> str:
    """A reason without the names and numbers that differ from row to row, so that rows can be counted by it."""
    return _DETAILS.sub("…", reason)
