"""What is told of the tokens of a picture."""

import re

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
    result = tokens.tokenize_and_paint(model, PROCESSOR, grey)
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
    result = tokens.tokenize_and_paint(model, PROCESSOR, pictures.make_scenes(1, SIZE)[0])
    assert result.nearest == [[]] * result.num_tokens and result.num_tokens > 0
    assert tokens.draw([result])[0].width > 3 * 512
    assert f"{result.num_tokens} concept token" in tokens.describe(result)


def test_the_likeliest_concept_is_the_one_nearest_to_any_token():
    def likeliest(nearest):
        return tokens.likeliest_concept(tokens.Result(None, None, None, nearest, None, 0, 0, 0))

    assert likeliest([[("owl", 0.2), ("gem", 0.1)], [("bus", 0.7), ("owl", 0.3)], [("star", 0.6)]]) == "bus"
    assert likeliest([[], []]) == "object"


def test_only_near_concepts_are_names():
    assert tokens.token_name([("owl", 0.61), ("gem", 0.6)]) == "owl"
    assert tokens.token_name([("owl", 0.59), ("gem", 0.1)]) is None
    assert tokens.token_name([]) is None


def test_the_table_says_on_what_a_token_lies():
    picture = pictures.make_scenes(2, 64)[1]
    scene = picture.scene
    truth = patch_labels(scene.masks, (16, 16))
    names = ["background", *scene.names]
    nearest = [[("owl", 0.9), ("gem", -0.25)] if label else [("owl", 0.1)] for label in range(len(names))]
    result = tokens.Result(picture, truth, (16, 16), nearest, picture.image, 20.0, 1.0, 2.0)
    heading, figures, header, *rows = tokens.describe(result).splitlines()
    assert heading == f"test scene of 6 objects: {', '.join(scene.names)}"
    assert figures == "7 concept tokens, PSNR 20.0 dB, tokenised in 1 ms, painted in 2 ms"
    for label, row in enumerate(rows):
        cells = re.split(r" {2,}", row.strip())
        concepts = "owl 0.90, gem -0.25" if label else "owl 0.10"
        assert cells == [str(label), str((truth == label).sum()), names[label], "owl" if label else "-", concepts]
        assert row.index(names[label]) == header.index("lies on")
        assert row.index(concepts) == header.index("nearest concepts")
