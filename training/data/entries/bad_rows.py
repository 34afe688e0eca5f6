"""What becomes of rows that cannot be read: each is named with file, row and reason, and refused or skipped."""

import warnings
from collections.abc import Callable
from typing import Literal, TypeVar

Made = TypeVar("Made")
OnError = Literal["raise", "skip"]
_SHOWN = 10  # problems spelled out in an error


class Report:
    """Collects what is wrong with the rows of `source` and says it once, in the way that the caller chose."""

    def __init__(self, source: str, on_error: OnError):
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
        self.source, self.on_error = source, on_error
        self.problems: list[str] = []

    def attempt(self, where: str, make: Callable[[], Made]) -> Made | None:
        """What `make` makes, or None if it is bad; `where` names the file and the row."""
        try:
            return make()
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None

    def close(self, kept: int | None = None) -> None:
        """Raises or warns if there were problems; raises if `kept`, the number of rows that are left, is 0."""
        bad = len(self.problems)
        if bad:
            if self.on_error == "raise":
                first = "\n  ".join([*self.problems[:_SHOWN], *(["..."] if bad > _SHOWN else [])])
                raise ValueError(f'{self.source}: {bad} bad rows (on_error="skip" leaves them out):\n  {first}')
            warnings.warn("\n  ".join([f"{self.source}: skipped {bad} bad rows:", *self.problems]), stacklevel=3)
        if kept == 0:
            left = "no row is left, all are bad (see the warning)" if bad else "there are no rows in it"
            raise ValueError(f"{self.source}: {left}")
