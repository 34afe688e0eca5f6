"""Where clusters lie, by hand, and that tokens are told."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_setok import SetokConfig
from modeling_setok.cluster_extents import ExtentEmbedding, cluster_extents


def members_of(ids: torch.LongTensor, num_clusters: int) -> torch.BoolTensor:
    """(B, h, w) ids to (B, C, h * w)."""
    return ids.flatten(1)[:, None] == torch.arange(num_clusters)[:, None]


def test_a_rectangle_on_any_grid():
    ids = torch.zeros(2, 8, 8, dtype=torch.long)
    ids[0, 2:5, 1:7] = 1
    ids[1, :, :2] = 2
    extents = cluster_extents(members_of(ids, 3), (8, 8))
    assert extents.shape == (2, 3, 4) and extents.dtype == torch.float32 and extents.isfinite().all()
    # A rectangle, not its cells' middles, has side / sqrt(12)
    rectangle = torch.tensor([4 / 8, 3.5 / 8, 6 / 8 / math.sqrt(12), 3 / 8 / math.sqrt(12)])
    torch.testing.assert_close(extents[0, 1], rectangle)
    stripe = torch.tensor([1 / 8, 1 / 2, 2 / 8 / math.sqrt(12), 1 / math.sqrt(12)])
    torch.testing.assert_close(extents[1, 2], stripe)
    finer = ids.repeat_interleave(2, 1).repeat_interleave(5, 2)
    torch.testing.assert_close(cluster_extents(members_of(finer, 3), (16, 40))[0, :2], extents[0, :2])


def test_two_cells_apart():
    members = torch.zeros(1, 1, 4, 4)
    members[0, 0, 1, 0] = members[0, 0, 1, 3] = 1
    expected = [1 / 2, 3 / 8, math.sqrt((3 / 8) ** 2 + 1 / (12 * 16)), 1 / 4 / math.sqrt(12)]
    torch.testing.assert_close(cluster_extents(members.flatten(2), (4, 4))[0, 0], torch.tensor(expected))
    members[0, 0, 1, 3] = 0  # weights count: three quarters of it lie in the first cell
    members[0, 0, 1, 0], members[0, 0, 1, 2] = 0.6, 0.2
    assert cluster_extents(members.flatten(2), (4, 4))[0, 0, 0] == pytest.approx(0.75 * 1 / 8 + 0.25 * 5 / 8)


def test_pictures_on_a_padded_grid_have_their_own_sides():
    own = torch.randint(0, 3, (1, 3, 5))
    padded = torch.full((1, 6, 8), -1)
    padded[:, :3, :5] = own
    sizes = torch.tensor([[3, 5]])
    alone = cluster_extents(members_of(own, 3), (3, 5))
    torch.testing.assert_close(cluster_extents(members_of(padded, 3), (6, 8), sizes), alone)


def test_float32_under_autocast():
    members = members_of(torch.randint(-1, 6, (3, 16, 16)), 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        extents = cluster_extents(members, (16, 16))
    torch.testing.assert_close(extents, cluster_extents(members, (16, 16)), rtol=0, atol=0)


def test_the_code_tells_places_apart():
    """Centres a pixel of 64 apart, and spreads a tenth apart, by much more than float16 rounds."""
    embedding = ExtentEmbedding(32)
    here = torch.tensor([0.5, 0.25, 0.1, 0.2])
    for number, change in enumerate((1 / 64, 1 / 64, 0.01, 0.02)):
        there = here.clone()
        there[number] += change
        assert (embedding(here) - embedding(there)).norm() > 0.02
    assert embedding.half()(here).dtype == torch.float16


def test_only_the_transformer_is_told():
    with pytest.raises(StrictDataclassError, match='use_extent_embeddings needs merger="transformer"'):
        SetokConfig(merger="mean", use_extent_embeddings=True)
    assert not SetokConfig().use_extent_embeddings
