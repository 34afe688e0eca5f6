import numpy as np
import pytest
import torch

from tests.training.evaluation.object_discovery.planted import planted_picture
from training.evaluation.metrics import AdjustedRandIndex
from training.evaluation.object_discovery.methods import METHODS
from training.evaluation.object_discovery.slots import SlotTraining, train_slots

CLUSTERINGS = ["setok", "kmeans", "spectral", "dpc_knn"]


def ari(labels, picture):
    return AdjustedRandIndex().compute(predictions=[labels.ravel()], references=[picture.cluster_ids])["ari"]


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_clusterings_find_planted_segments(name):
    picture = planted_picture(3)
    labels = METHODS[name](picture, picture.num_clusters, 0)
    assert labels.shape == (8, 8)
    assert ari(labels, picture) == 1


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_seeded_and_count(name):
    picture = planted_picture(3)
    labels = METHODS[name](picture, 4, 7)
    assert np.array_equal(labels, METHODS[name](picture, 4, 7))
    assert labels.min() >= 0 and np.issubdtype(labels.dtype, np.integer)
    assert len(np.unique(labels)) <= (8 if name == "slic" else 4)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("setok")])
def test_one_segment(name):
    assert len(np.unique(METHODS[name](planted_picture(2), 1, 0))) == 1


def test_superpixels_are_of_pixels():
    assert METHODS["slic"](planted_picture(1), 4, 0).shape == (24, 24)


def test_slots_learn_to_reconstruct_and_leave_random_numbers_alone():
    features = [planted_picture(number, seed).features for number in (1, 2, 3) for seed in range(3)]
    state = torch.get_rng_state()

    def trained(steps):
        training = SlotTraining(
            steps=steps, batch_size=4, decoded_patches=32, slot_dim=16, hidden_dim=32, learning_rate=4e-3
        )
        return train_slots(features, 4, training, seed=0)

    errors = []
    for slots in (trained(1), after := trained(40)):
        normal = slots.model.normalise(torch.stack(features))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            reconstruction, masks = slots.model(normal, torch.arange(64))
        errors.append(float((reconstruction - normal).square().mean()))
        assert masks.shape == (9, 4, 64) and torch.allclose(masks.sum(1), torch.ones(9, 64))
    assert errors[1] < errors[0]
    labels = after(planted_picture(2, seed=99), 4, 0)
    assert labels.shape == (8, 8) and 0 <= labels.min() and labels.max() < 4
    assert np.array_equal(labels, trained(40)(planted_picture(2, seed=99), 4, 0)), "training is seeded"
    assert torch.equal(state, torch.get_rng_state())
