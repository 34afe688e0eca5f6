"""Names of objects that no training has seen: ranks by the text alone, and what chance gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from processing import SetokImageProcessor
from tests.setokim_testing import tiny_setok
from training.evaluation.unseen_names import name_ranks, top_shares


def test_a_name_ranks_by_its_nearest_token():
    torch.manual_seed(0)
    model = tiny_setok().eval()
    size = model.config.vision_config.image_size
    processor = SetokImageProcessor(size={"height": size, "width": size})
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = torch.nn.functional.normalize(
            model.visual_projection(model.setok(pixels).last_hidden_state[0]), dim=-1
        )
        # Text features whose projections are one token, its opposite, and a half of either
        target = torch.stack([tokens[-1], -tokens[-1], tokens[-1] - tokens[-1].roll(1)])
        texts = torch.linalg.lstsq(model.text_projection.weight, target.T).solution.T
    names = ["owl", "crab", "fox"]
    scenes = [SimpleNamespace(image=image, names=[name]) for name in names]
    ranks = name_ranks(model, processor, scenes, names, texts)
    assert ranks[0] == 0 and sorted(ranks) == [0, 1, 2]


def test_shares_of_the_best():
    assert top_shares([0, 3, 4, 5], num_names=50) == {
        "top1": 0.25, "top5": 0.75, "top1_chance": pytest.approx(0.02), "top5_chance": pytest.approx(0.1),
        "num_scenes": 4,
    }  # fmt: skip
    assert top_shares([0], num_names=3)["top5_chance"] == 1
