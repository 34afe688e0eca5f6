import numpy as np
import pytest

from training.evaluation.metrics import (
    AdjustedRandIndex,
    MeanIoU,
    RankCorrelation,
    grid_labels,
    kmeans_labels,
    patch_labels,
)


def ari(prediction, reference):
    return AdjustedRandIndex().compute(predictions=[prediction], references=[reference])["ari"]


def miou(prediction, reference):
    return MeanIoU().compute(predictions=[prediction], references=[reference])["miou"]


def test_patch_labels_are_the_majority():
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, :2, :2] = True  # all of patch (0, 0)
    masks[0, 0, 2] = True  # a quarter of patch (0, 1): background wins
    masks[1, 2:, 3:] = True  # half of patch (1, 1), a tie that background wins; all of patch (1, 2)
    assert patch_labels(masks, (2, 3)).tolist() == [1, 0, 0, 0, 0, 2]


def test_patch_labels_of_a_grid_that_does_not_divide_the_image():
    """5 columns on 2 patches: centres .1 .3 .5 .7 .9 of the width, so the middle one belongs to the right patch."""
    masks = np.zeros((1, 2, 5), dtype=bool)
    masks[0, :, 3:] = True
    assert patch_labels(masks, (1, 2)).tolist() == [0, 1]
    masks[0, :, 2:] = True
    assert patch_labels(masks, (2, 2)).tolist() == [0, 1, 0, 1]


def test_patch_labels_without_objects_and_with_overlap():
    assert patch_labels(np.zeros((0, 4, 4), dtype=bool), (2, 2)).tolist() == [0] * 4
    assert patch_labels(np.ones((2, 4, 4), dtype=bool), (2, 2)).tolist() == [2] * 4


def test_patch_labels_refuses_bad_masks():
    with pytest.raises(ValueError, match="bool"):
        patch_labels(np.zeros((1, 4, 4)), (2, 2))
    with pytest.raises(ValueError, match="finer"):
        patch_labels(np.zeros((1, 4, 4), dtype=bool), (8, 2))


def test_ari_of_known_partitions():
    truth = [0, 0, 1, 1]
    assert ari(truth, truth) == 1
    assert ari([7, 7, 3, 3], truth) == 1, "labels are names only"
    assert ari([0, 0, 0, 0], truth) == 0
    assert ari([0, 1, 0, 1], truth) == pytest.approx(-0.5)  # no pair in common where chance expects 2/3 of a pair
    # Hubert & Arabie: index 1, expected 1 · 2 / 6, maximum (1 + 2) / 2.
    assert ari([0, 0, 1, 2], truth) == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))


def test_ari_of_independent_partitions_is_near_zero():
    rng = np.random.default_rng(0)
    metric = AdjustedRandIndex()
    metric.add_batch(predictions=rng.integers(5, size=(50, 200)), references=rng.integers(4, size=(50, 200)))
    assert abs(metric.compute()["ari"]) < 0.01


def test_ari_is_the_mean_over_images():
    result = AdjustedRandIndex().compute(predictions=[[0, 0, 1, 1], [0, 0, 0]], references=[[0, 0, 1, 1], [0, 1, 1]])
    assert result["ari"] == pytest.approx(0.5)


def test_miou_matches_one_to_one():
    truth = [0, 0, 0, 0, 1, 1]
    assert miou([5, 5, 5, 5, 2, 2], truth) == 1
    # Cluster 0 is 3/4 of the background, cluster 1 is the other quarter, cluster 2 the object.
    assert miou([0, 0, 0, 1, 2, 2], truth) == pytest.approx((3 / 4 + 1) / 2)
    # One cluster serves one segment only: 4/6 and nothing.
    assert miou([0] * 6, truth) == pytest.approx((4 / 6) / 2)


def test_miou_takes_the_best_sum_not_the_greedy_one():
    """Greedy would take the largest IoU first (3/7), which leaves 0 for the other segment: less than 2/5 + 2/5."""
    truth = [0, 0, 0, 0, 0, 1, 1]
    prediction = [0, 0, 0, 1, 1, 0, 0]
    assert miou(prediction, truth) == pytest.approx((2 / 5 + 2 / 5) / 2)


def test_padding_is_left_out():
    assert ari([4, 4, 6, -1, -1], [0, 0, 1, 1, 1]) == 1
    assert miou([4, 4, 6, -1, -1], [0, 0, 1, 1, 1]) == 1
    with pytest.raises(ValueError, match="no patch"):
        ari([-1, -1], [0, 1])
    with pytest.raises(ValueError, match="one label per patch"):
        ari([0, 1, 2], [0, 1])


def test_rank_correlation():
    def spearman(tokens, objects):
        return RankCorrelation().compute(predictions=tokens, references=objects)["spearman"]

    assert spearman([2, 9, 40], [1, 2, 3]) == pytest.approx(1)
    assert spearman([9, 8, 1], [1, 2, 3]) == pytest.approx(-1)
    assert spearman([5, 5, 5], [1, 2, 3]) == 0


def test_kmeans_finds_directions_whatever_their_length():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 10)
    features = np.eye(3)[truth] * rng.uniform(0.1, 10, size=(30, 1)) + 0.001 * rng.normal(size=(30, 3))
    labels = kmeans_labels(features, 3, num_init=4)
    assert ari(labels, truth) == 1
    assert np.array_equal(labels, kmeans_labels(features, 3, num_init=4)), "seeded"


@pytest.mark.filterwarnings("error")
def test_kmeans_with_fewer_distinct_patches_than_clusters():
    features = np.eye(2)[[0, 0, 1, 1]]
    assert len(set(kmeans_labels(features, 3))) == 2
    assert set(kmeans_labels(np.zeros((4, 2)), 3)) == {0}


@pytest.mark.parametrize(("num_cells", "expected"), [(1, 1), (4, 4), (5, 5), (12, 12), (13, 12), (24, 24), (99, 24)])
def test_grid_has_about_the_cells_asked_for(num_cells, expected):
    labels = grid_labels((4, 6), num_cells)
    assert sorted(set(labels.tolist())) == list(range(expected))


def test_grid_cells_are_squarest():
    assert grid_labels((4, 4), 4).reshape(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    with pytest.raises(ValueError, match="at least 1"):
        grid_labels((4, 4), 0)
