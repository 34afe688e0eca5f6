"""What is told of the tokens of a picture."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.demo.demo_testing import NAMES, PROCESSOR, SIZE
from training.demo import pictures, tokens
from training.evaluation.metrics import patch_labels


def test_psnr_is_taken_in_the_size_that_is_painted(model, monkeypatch):
    grey = pictures.Picture("grey", Image.new("RGB", (90, 50), (102, 102, 102)))
    painted = torch.full((1, 3, 16, 16), 2 * (102 + 51) / 255 - 1)  # 0.2 too bright
    monkeypatch.setattr(model, "detokenize", lambda tokens, token_mask: painted)
    result = tokens.tokenize_and_paint(model, PROCESSOR, grey, 0.6)
    assert result.psnr == pytest.approx(-20 * np.log10(0.2), abs=1e-3)
    assert result.reconstruction.size == (16, 16) and result.reconstruction.getpixel((3, 3)) == (153, 153, 153)
    assert result.num_tokens == result.cluster_ids.max() + 1
    assert result.tokenize_ms > 0 and result.paint_ms > 0


@torch.no_grad()
def test_nearest_concepts_are_those_of_the_highest_cosine(model):
    random_tokens = torch.randn(5, 16)
    nearest = tokens.nearest_concepts(model, random_tokens)
    projected = model.visual_projection(random_tokens)
    cosines = torch.cosine_similarity(projected[:, None], model.bank_features()[None], dim=-1)
    for token, concepts in enumerate(nearest):
        best = cosines[token].argsort(descending=True)[: tokens.NUM_NEAREST].tolist()
        assert [name for name, _ in concepts] == [NAMES[index] for index in best]
        assert [cosine for _, cosine in concepts] == pytest.approx(cosines[token, best].tolist(), abs=1e-6)


def test_a_model_without_concepts_gives_no_names(model, monkeypatch):
    monkeypatch.setattr(model.config, "concept_names", None)
    result = tokens.tokenize_and_paint(model, PROCESSOR, pictures.make_scenes(1, SIZE)[0], 0.6)
    assert result.nearest == [[]] * result.num_tokens and result.num_tokens > 0
    assert tokens.draw([result])[0].width > 3 * 512
    assert f"{result.num_tokens} concept token" in tokens.describe(result)


def test_only_near_concepts_are_names():
    assert tokens.token_name([("owl", 0.61), ("gem", 0.6)], 0.6) == "owl"
    assert tokens.token_name([("owl", 0.59), ("gem", 0.1)], 0.6) is None
    assert tokens.token_name([], 0.6) is None


def test_the_threshold_is_the_least_cosine_from_which_names_are_right(model, monkeypatch):
    scenes = pictures.make_scenes(12, SIZE, "validation")
    cosines = iter(np.linspace(0.99, 0.01, 1000))

    def found_in(is_right):
        """Names of tokens in falling order of their cosines: those of a thing that covers it, or of no thing there."""
        monkeypatch.setattr(tokens, "_covered", lambda scene, ids, grid_size: [[1.0] * len(scene.names)] * 2)
        given = iter(is_right)
        by_first = iter([scene.scene.names[0] for scene in scenes for _ in range(2)])

        def nearest(model, found):
            return [[(next(by_first) if next(given) else "nothing", next(cosines))] for _ in range(2)]

        monkeypatch.setattr(tokens, "nearest_concepts", nearest)
        return tokens.calibrated_threshold(model, PROCESSOR, scenes)

    step = 0.98 / 999
    assert found_in([True] * 20 + [False] * 4) == pytest.approx(0.99 - 20 * step)  # 20 of 21 are 95 %
    assert found_in([False] * 24) == 1.0
    monkeypatch.setattr(model.config, "concept_names", None)
    assert found_in([True] * 24) == 1.0


def test_a_name_is_right_where_its_thing_covers_a_quarter_of_the_token():
    mask = np.zeros((1, 64, 64), bool)
    mask[0, :16, :16] = True
    ids = torch.zeros(256, dtype=torch.long)
    ids[[0, 1, 4, 5]] = 1  # half of it on the thing
    scene = SimpleNamespace(masks=mask, names=["owl"])
    background, token = tokens._covered(scene, ids, (16, 16))
    assert token == pytest.approx([0.5]) and background == pytest.approx([14 / 252])


def test_the_shipped_model_names_most_things(models):
    threshold = tokens.measured_threshold(models.setok, models.image_processor)
    assert 0.4 < threshold < 0.8
    assert f"at least {threshold:.2f}: so 95% of the names are right" in tokens.naming(threshold)


def test_the_table_says_on_what_a_token_lies():
    picture = pictures.make_scenes(2, 64)[1]
    scene = picture.scene
    truth = patch_labels(scene.masks, (16, 16))
    names = ["background", *scene.names]
    nearest = [[("owl", 0.9), ("gem", -0.25)] if label else [("owl", 0.1)] for label in range(len(names))]
    result = tokens.Result(picture, truth, (16, 16), nearest, 0.6, picture.image, 20.0, 1.0, 2.0)
    heading, figures, header, *rows = tokens.describe(result).splitlines()
    assert heading == f"test scene of 6 objects: {', '.join(scene.names)}"
    assert figures == "7 concept tokens, PSNR 20.0 dB, tokenised in 1 ms, painted in 2 ms"
    for label, row in enumerate(rows):
        cells = re.split(r" {2,}", row.strip())
        concepts = "owl 0.90, gem -0.25" if label else "owl 0.10"
        assert cells == [str(label), str((truth == label).sum()), names[label], "owl" if label else "-", concepts]
        assert row.index(names[label]) == header.index("lies on")
        assert row.index(concepts) == header.index("nearest concepts")
