import importlib

import pytest

from training.evaluation.benchmark.answering import ChatModel, Setok, Setokim
from training.evaluation.benchmark.registry import BENCHMARKS


def test_no_two_benchmarks_have_the_same_name():
    rooms = [
        importlib.import_module(f"training.evaluation.benchmark.{room}")
        for room in ("understanding", "segmentation", "generation")
    ]
    assert sum(len(room.BENCHMARKS) for room in rooms) == len(BENCHMARKS)


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_a_benchmark_says_what_it_is(benchmark):
    assert benchmark.splits and benchmark.files and benchmark.definition
    assert benchmark.rows[0].key == "num_examples"
    assert any(benchmark.answer in answerer.gives for answerer in (ChatModel, Setok, Setokim))
