import pytest

from training.evaluation.metrics import RankCorrelation


def test_batches_add_up_and_compute_forgets():
    metric = RankCorrelation()
    metric.add_batch(predictions=[1, 2], references=[10, 20])
    metric.add_batch(predictions=[], references=[])
    metric.add_batch(predictions=[3], references=[5])
    assert len(metric) == 3
    # Ranks 1 2 3 against 2 3 1: 1 - 6 (1 + 1 + 4) / (3 · 8).
    assert metric.compute()["spearman"] == pytest.approx(-0.5)
    assert metric.compute(predictions=[1, 2], references=[1, 2])["spearman"] == pytest.approx(1.0)
    assert len(metric) == 0
    with pytest.raises(ValueError, match="seen no example"):
        metric.compute()


def test_compute_adds_to_what_is_there():
    metric = RankCorrelation()
    metric.add_batch(predictions=[1, 2], references=[10, 20])
    assert metric.compute(predictions=[3], references=[5])["spearman"] == pytest.approx(-0.5)


def test_refuses_unequal_numbers():
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        RankCorrelation().add_batch(predictions=[1, 2], references=[1])
    with pytest.raises(ValueError, match="both"):
        RankCorrelation().compute(predictions=[1])
