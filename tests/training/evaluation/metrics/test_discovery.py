import time

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from training.evaluation.metrics import (
    BoundaryPrecisionRecall,
    ForegroundAdjustedRandIndex,
    MeanBestOverlap,
    SegmentationCovering,
    TokenMonosemanticity,
    pixel_labels,
)

METRICS = [
    ForegroundAdjustedRandIndex,
    MeanBestOverlap,
    SegmentationCovering,
    TokenMonosemanticity,
    BoundaryPrecisionRecall,
]


def measure(metric, prediction, reference):
    return metric.compute(predictions=[np.array(prediction)], references=[np.array(reference)])


def test_pixel_labels_of_masks():
    masks = np.zeros((2, 2, 3), dtype=bool)
    masks[0, 0] = masks[1, :, 2] = True
    assert pixel_labels(masks).tolist() == [[1, 1, 2], [0, 0, 2]]
    with pytest.raises(ValueError, match="bool"):
        pixel_labels(masks.astype(int))


def test_fg_ari_leaves_out_the_pixels_that_are_background():
    """Objects 1 and 2 of two pixels each, both apart in the prediction, which takes one more pixel for object 1."""
    reference = [[1, 1, 0, 0, 2, 2]]
    prediction = [[5, 5, 5, 0, 3, 3]]
    result = measure(ForegroundAdjustedRandIndex(), prediction, reference)
    assert result["fg_ari"] == 1
    # Pairs together: 1 + 1 in both; 3 + 0 + 1 in the prediction, 1 + 1 + 1 in the reference; 15 in all.
    expected = 4 * 3 / 15
    assert result["ari"] == pytest.approx((2 - expected) / ((4 + 3) / 2 - expected))


def test_fg_ari_of_one_object():
    reference = [[0, 1, 1, 0]]
    assert measure(ForegroundAdjustedRandIndex(), [[0, 0, 0, 0]], reference) == {"fg_ari": 1, "ari": 0}
    assert measure(ForegroundAdjustedRandIndex(), [[0, 0, 1, 1]], reference)["fg_ari"] == 0


def test_fg_ari_of_several_objects_leaves_out_images_with_one():
    metric = ForegroundAdjustedRandIndex()
    one, two = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 1, 2, 2]])
    metric.add_batch(predictions=[np.array([[0, 0, 1, 1]]), two], references=[one, two])
    assert metric.compute() == {"fg_ari": 0.5, "ari": pytest.approx((-0.5 + 1) / 2), "fg_ari_several": 1}


def test_ari_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        reference, prediction = rng.integers(4, size=(9, 7)), rng.integers(1, 6, size=(9, 7))
        prediction[:4] = reference[:4]
        result = measure(ForegroundAdjustedRandIndex(), prediction, reference)
        objects = reference > 0
        assert result["ari"] == pytest.approx(adjusted_rand_score(reference.ravel(), prediction.ravel()))
        assert result["fg_ari"] == pytest.approx(adjusted_rand_score(reference[objects], prediction[objects]))


def test_best_overlap_matches_nothing():
    """Object 1 has 4 pixels, object 2 two; one segment holds both, and nothing else."""
    reference = [[1, 1, 1, 1, 2, 2, 0, 0]]
    prediction = [[7, 7, 7, 7, 7, 7, 8, 8]]
    result = measure(MeanBestOverlap(), prediction, reference)
    assert result["mbo"] == pytest.approx((4 / 6 + 2 / 6) / 2)
    assert result["mbo_with_background"] == pytest.approx((4 / 6 + 2 / 6 + 1) / 3)
    result = measure(SegmentationCovering(), prediction, reference)
    assert result["sc_fg"] == pytest.approx((4 * 4 / 6 + 2 * 2 / 6) / 6)
    assert result["sc"] == pytest.approx((4 * 4 / 6 + 2 * 2 / 6 + 2) / 8)


def test_best_overlap_takes_segments_whole():
    """A segment that is the object and as much background covers half of it, as GENESIS' released code has it."""
    result = measure(MeanBestOverlap(), [[1, 1, 1, 1, 0]], [[1, 1, 0, 0, 0]])
    assert result["mbo"] == pytest.approx(1 / 2)
    assert result["mbo_with_background"] == pytest.approx((1 / 2 + 2 / 5) / 2)


def test_objects_that_are_hidden_do_not_count():
    """There is no pixel of object 1, and none of background."""
    result = measure(MeanBestOverlap(), [[0, 0, 1]], [[2, 2, 3]])
    assert result == {"mbo": 1, "mbo_with_background": 1}
    assert measure(SegmentationCovering(), [[0, 0, 1]], [[2, 2, 3]]) == {"sc_fg": 1, "sc": 1}


def test_monosemanticity_is_about_the_inside_of_segments():
    """Halves of a picture of 10 x 10 pixels; the true boundary, two pixels thick, is somewhere else."""
    halves = np.zeros((10, 10), dtype=int)
    halves[:, 5:] = 1

    def share(reference_start, tolerance):
        reference = np.zeros((10, 10), dtype=int)
        reference[:, reference_start:] = 1
        return measure(TokenMonosemanticity(tolerance), halves, reference)["monosemanticity"]

    assert share(5, 0.1) == 1
    assert share(6, 0.1) == 1 / 2, "its boundary is columns 5 and 6, the right half without its outermost pixel 6 to 9"
    assert share(6, 0.2) == 1, "now the inside begins at column 7"
    assert share(8, 0.2) == 1 / 2


def test_monosemanticity_counts_segments():
    """Of four quarters two have an object's boundary in their middle."""
    prediction = np.kron(np.array([[0, 1], [2, 3]]), np.ones((8, 8), dtype=int))
    reference = np.zeros((16, 16), dtype=int)
    reference[3:5, 3:5] = 1
    reference[11:13, 11:13] = 2
    assert measure(TokenMonosemanticity(1 / 16), prediction, reference) == {"monosemanticity": 1 / 2}


def test_boundaries_near_one_another():
    """The true boundary is columns 4 and 5. The prediction has it and one more, at columns 8 and 9."""
    reference = np.zeros((4, 12), dtype=int)
    reference[:, 5:] = 1
    prediction = reference.copy()
    prediction[:, 9:] = 2
    result = measure(BoundaryPrecisionRecall(1 / 12), prediction, reference)
    assert result == {"boundary_precision": 1 / 2, "boundary_recall": 1}
    result = measure(BoundaryPrecisionRecall(3 / 12), prediction, reference)
    assert result["boundary_precision"] == 3 / 4, "column 8 is three pixels from column 5"
    shifted = np.roll(reference, 2, axis=1)
    shifted[:, :2] = 0  # its boundary is columns 6 and 7
    result = measure(BoundaryPrecisionRecall(1 / 12), shifted, reference)
    assert result == {"boundary_precision": 1 / 2, "boundary_recall": 1 / 2}


def test_boundary_of_one_segment():
    reference = np.zeros((4, 4), dtype=int)
    reference[:2] = 1
    whole = np.zeros((4, 4), dtype=int)
    assert measure(BoundaryPrecisionRecall(), whole, reference) == {"boundary_precision": 1, "boundary_recall": 0}
    assert measure(BoundaryPrecisionRecall(), reference, whole + 1) == {"boundary_precision": 0, "boundary_recall": 1}


@pytest.mark.parametrize("metric", METRICS)
def test_the_truth_gets_full_marks_and_names_do_not_matter(metric):
    rng = np.random.default_rng(1)
    reference = np.kron(rng.integers(4, size=(5, 6)), np.ones((6, 6), dtype=int))
    for prediction in (reference, 9 - reference):
        assert set(measure(metric(), prediction, reference).values()) == {1}


@pytest.mark.parametrize("metric", METRICS)
def test_refuses_other_maps(metric):
    good = np.array([[0, 1]])
    for prediction, reference, message in (
        (good[0], good[0], "maps"),
        (good, good.T, "one size"),
        (good / 1.0, good, "integers"),
        (good, 0 * good, "no object"),
        (good - 1, good, "negative"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(metric(), prediction, reference)
    with pytest.raises(ValueError, match="no example"):
        metric().compute()


def test_tolerance_is_a_share():
    for metric in (TokenMonosemanticity, BoundaryPrecisionRecall):
        with pytest.raises(ValueError, match="share"):
            metric(5)


def test_a_large_picture_takes_no_time():
    rng = np.random.default_rng(2)
    reference, prediction = (np.kron(rng.integers(n, size=(37, 37)), np.ones((14, 14), dtype=int)) for n in (7, 30))
    start = time.perf_counter()
    for metric in METRICS:
        measure(metric(), prediction, reference)
    assert time.perf_counter() - start < 5
