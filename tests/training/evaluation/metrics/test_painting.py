import pytest
import torch

from training.evaluation.metrics import AskedFound, InPlace, MeanAbsoluteError, RPrecision


def test_asked_found_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.0], [0.4, 0.3, 0.2, 0.1]])
    # Picture 0: the top 2 are {0, 2}, which has 2. Picture 1: the top 3 are {0, 1, 2}, which have one of {0, 3}.
    result = AskedFound().compute(predictions=scores, references=[([2], 2), ({0, 3}, 3)])
    assert result["found"] == pytest.approx((1 + 1 / 2) / 2)
    assert result["found_chance"] == pytest.approx((2 / 4 + 3 / 4) / 2)


def test_is_the_r_precision_where_everything_was_asked_for():
    scores, concepts = torch.rand(50, 12), [set(torch.randperm(12)[: 1 + i % 4].tolist()) for i in range(50)]
    found = AskedFound().compute(predictions=scores, references=[(asked, len(asked)) for asked in concepts])
    precision = RPrecision().compute(predictions=scores, references=concepts)
    assert list(found.values()) == pytest.approx(list(precision.values()))


@pytest.mark.parametrize("reference", [([], 1), ([3], 1), ([0, 1], 1), ([0], 4)])
def test_refuses_what_has_no_answer(reference):
    with pytest.raises(ValueError, match="Needed"):
        AskedFound().add_batch(predictions=torch.rand(1, 3), references=[reference])


def test_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        AskedFound().add_batch(predictions=torch.full((1, 3), float("nan")), references=[([0], 1)])


def test_in_place_by_hand():
    places = [(0.5, 0.5), (0.1, 0.9), None, (0.3, 0.3)]
    truths = [(0.5, 0.74), (0.3, 0.7), (0.5, 0.5), (0.3, 0.3)]  # 0.24 and 0.28 away, nothing found, the very place
    assert InPlace().compute(predictions=places, references=truths) == {"placed": 0.5}


def test_l1_by_hand():
    black = torch.zeros(2, 3, 4, 4)
    other = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 1.0)])
    assert MeanAbsoluteError().compute(predictions=other, references=black) == {"l1": pytest.approx(0.625)}
    assert MeanAbsoluteError().compute(predictions=other, references=other) == {"l1": 0}
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        MeanAbsoluteError().add_batch(predictions=2 * other, references=other)
