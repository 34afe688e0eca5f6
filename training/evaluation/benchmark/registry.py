"""All benchmarks by name: each room, a folder beside this file, lists its own as `BENCHMARKS`, a tuple."""

import importlib
import pkgutil
from pathlib import Path

from training.evaluation.benchmark.benchmark import Benchmark


def _rooms():
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.ispkg:
            yield importlib.import_module(f"{__package__}.{found.name}")


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for room in _rooms() for benchmark in getattr(room, "BENCHMARKS", ())
}
