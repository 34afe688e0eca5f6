"""Judges many bad inputs: each must give a right result, or a refusal whose text names the thing and the remedy."""

import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError

REFUSALS = (ValueError, TypeError, OSError, StrictDataclassError)  # and what derives from them; all else is a crash
SECONDS = 60  # a case that takes longer hangs
EXTRA_MEMORY = 2**30  # bytes that a case may take beyond the most that was taken before it
# What a library says of its own inside, which puzzles a user: such a text is no refusal, whatever its type
PUZZLING = ("object is not subscriptable", "has no attribute", "unhashable type", "not supported between instances")


class Hangs(BaseException):
    """Not an `Exception`, which the code under test might catch."""


class Campaign:
    """Counts the outcomes of cases: "right", "refused", and those that must not be: "wrong", "puzzling", "crashed",
    "hangs", "too much memory".

    Usage: `with campaign(name, least=1000) as cases: cases.run(description, call, check, names=["image_size"])`. At
    the end the counts are printed, and the test fails with the first bad cases.
    """

    def __init__(self, name: str):
        self.name, self.counts, self.bad = name, Counter(), []

    def run(
        self,
        description: str,
        call: Callable[[], object],
        check: Callable[[object], bool] = lambda result: True,
        names: Iterable[str] = (),
        must_refuse: bool = False,
        must_be_right: bool = False,
    ) -> None:
        """One case.

        Args:
            description: what is put in, enough to repeat it.
            call: puts it in.
            check: whether the result is right.
            names: words of which the refusal must hold at least one, such as the argument's or the file's name.
            must_refuse: that there is no right result.
            must_be_right: that a refusal will not do.
        """
        before = peak_memory()
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(SECONDS)
        try:
            result = call()
            outcome = "wrong" if must_refuse or not check(result) else "right"
            told = "" if must_refuse else repr(result)[:200]
        except REFUSALS as error:
            text, names = str(error), list(names)
            named = not names or any(name.lower() in text.lower() for name in names)
            clear = len(text.split()) >= 4 and not any(phrase in text for phrase in PUZZLING)
            outcome, told = "refused" if named and clear else "puzzling", f"{type(error).__name__}: {text[:300]}"
        except Hangs:
            outcome, told = "hangs", ""
        except Exception as error:
            outcome, told = "crashed", f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
        if outcome == "refused" and must_be_right:
            outcome = "wrong"
        if peak_memory() - before > EXTRA_MEMORY:
            outcome = "too much memory"
        self.counts[outcome] += 1
        if outcome not in ("right", "refused"):
            self.bad.append(f"{outcome}: {description} -> {told}")


@contextmanager
def campaign(name: str, least: int):
    """A campaign of at least so many cases, whose counts are printed at its end."""
    cases = Campaign(name)
    yield cases
    total = sum(cases.counts.values())
    print(f"\n{name}: {total} cases, {dict(cases.counts)}")
    assert not cases.bad, f"{len(cases.bad)} of {total} cases:\n" + "\n".join(cases.bad[:20])
    assert total >= least


def peak_memory() -> int:
    """Bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hang(*_) -> None:
    raise Hangs
