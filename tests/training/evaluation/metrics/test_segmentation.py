from itertools import combinations

import numpy as np
import pytest

from training.evaluation.metrics import ReferringIoU, best_union, upsample_labels


def masks(*rows):
    return [np.array([row], dtype=bool) for row in rows]


def test_iou_by_hand():
    result = ReferringIoU().compute(
        predictions=masks([1, 1, 0, 0], [1, 0, 0, 0]), references=masks([1, 1, 1, 1], [0, 1, 0, 0])
    )
    assert result["ciou"] == pytest.approx((2 + 0) / (4 + 2))
    assert result["giou"] == pytest.approx((2 / 4 + 0) / 2)


def test_precision_by_hand():
    """IoUs of 3/5, 1/2, 9/10, 1 and 0."""
    result = ReferringIoU().compute(
        predictions=masks([1, 1, 1, 0, 0], [1, 0], [1] * 9 + [0], [1, 1], [0, 1]),
        references=masks([1] * 5, [1, 1], [1] * 10, [1, 1], [1, 0]),
    )
    assert [result[f"precision_{percent}"] for percent in (50, 60, 70, 80, 90)] == [4 / 5, 3 / 5, 2 / 5, 2 / 5, 2 / 5]


def all_are(value):
    return dict.fromkeys(["ciou", "giou", *(f"precision_{percent}" for percent in (50, 60, 70, 80, 90))], value)


def test_perfect_opposite_and_nothing():
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert ReferringIoU().compute(predictions=[mask], references=[mask]) == all_are(1)
    assert ReferringIoU().compute(predictions=[~mask], references=[mask]) == all_are(0)
    nothing = np.zeros_like(mask)
    assert ReferringIoU().compute(predictions=[nothing], references=[nothing]) == all_are(1)
    assert ReferringIoU().compute(predictions=[nothing, ~mask], references=[nothing, mask])["giou"] == 0.5


def test_images_may_differ_in_size():
    small, large = np.ones((2, 2), bool), np.ones((8, 4), bool)
    result = ReferringIoU().compute(predictions=[small, ~large], references=[small, large])
    assert (result["ciou"], result["giou"]) == (4 / 36, 1 / 2)


def test_refuses_what_is_no_mask():
    mask = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="threshold"):
        ReferringIoU().add_batch(predictions=[mask.astype(float)], references=[mask])
    with pytest.raises(ValueError, match="own size"):
        ReferringIoU().add_batch(predictions=[mask], references=[np.ones((4, 4), bool)])


def test_best_union_beats_every_other():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(-1, 5, (6, 6))
        mask = rng.random((6, 6)) > 0.6
        found = best_union(labels, mask)
        best = max(
            (np.isin(labels, chosen) & mask).sum() / (np.isin(labels, chosen) | mask).sum()
            for size in range(1, 6)
            for chosen in combinations(range(5), size)
        )
        assert (found & mask).sum() / (found | mask).sum() == pytest.approx(best)


def test_best_union_finds_a_mask_of_whole_segments():
    labels = np.arange(9).reshape(3, 3)
    mask = np.isin(labels, (2, 3, 7))
    assert (best_union(labels, mask) == mask).all()
    assert not best_union(np.full((3, 3), -1), mask).any()
    with pytest.raises(ValueError, match="not empty"):
        best_union(labels, np.zeros((3, 3), bool))


def test_upsampled_labels_keep_their_place():
    labels = np.array([[0, 1], [2, 3]])
    assert (upsample_labels(labels, (4, 6)) == np.kron(labels, np.ones((2, 3), int))).all()
    assert upsample_labels(labels, (3, 3)).tolist() == [[0, 1, 1], [2, 3, 3], [2, 3, 3]]
