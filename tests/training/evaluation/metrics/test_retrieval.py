import pytest
import torch

from training.evaluation.metrics import RPrecision


def test_r_precision_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.0], [0.4, 0.3, 0.2, 0.1]])
    # Image 0: top 2 are {0, 2}, one of {0, 1} is there. Image 1: top 1 is {0}, not {3}.
    result = RPrecision().compute(predictions=scores, references=[{0, 1}, [3]])
    assert result["r_precision"] == pytest.approx((1 / 2 + 0) / 2)
    assert result["r_precision_chance"] == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_perfect_and_worst():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    assert RPrecision().compute(predictions=scores, references=[[0, 1]])["r_precision"] == 1
    assert RPrecision().compute(predictions=scores, references=[[2]])["r_precision"] == 0
    assert RPrecision().compute(predictions=scores, references=[[2, 2]])["r_precision"] == 0, "a set, not a list"


def test_chance_is_what_random_scores_reach():
    metric = RPrecision()
    metric.add_batch(predictions=torch.rand(4000, 12), references=[{0, 4, 7}] * 4000)
    result = metric.compute()
    assert result["r_precision_chance"] == pytest.approx(0.25)
    assert result["r_precision"] == pytest.approx(0.25, abs=0.02)


def test_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="leave it out"):
        RPrecision().add_batch(predictions=torch.rand(1, 3), references=[[]])
    with pytest.raises(ValueError, match="not all among the 3"):
        RPrecision().add_batch(predictions=torch.rand(1, 3), references=[[3]])
    with pytest.raises(ValueError, match="NaN"):
        RPrecision().add_batch(predictions=torch.full((1, 3), float("nan")), references=[[0]])
