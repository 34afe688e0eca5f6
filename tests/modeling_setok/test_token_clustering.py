"""The module that clusters as its config says, with the encoder's calibrated scales."""

import math

import torch

from modeling_setok import SetokConfig, cluster_tokens, soft_token_masks
from modeling_setok.token_clustering import TokenClustering
from tests.blobs import blobs


def test_module_uses_the_settings_of_its_config():
    settings = {"num_neighbors": 4, "criterion": "product", "threshold": 0.4, "assignment": "nearest", "max_tokens": 7}
    x = blobs(2, 60, 16, noise=0.5)
    module = TokenClustering(SetokConfig(**settings, token_order="raster"))
    clusters, soft_masks = module(x)
    assert soft_masks is None and list(module.parameters()) == []
    expected = cluster_tokens(x, **settings, token_order="raster")
    assert all(torch.equal(a, b) for a, b in zip(clusters, expected, strict=True))


def test_calibrated_scale_is_used_saved_and_exact_in_any_dtype():
    x = blobs(2, 60, 16, noise=0.5)
    module = TokenClustering(SetokConfig())
    module.feature_scale.fill_(0.7123456)
    expected = cluster_tokens(x, scale=0.7123456)
    restored = TokenClustering(SetokConfig())
    restored.load_state_dict(module.state_dict())
    for clustering in (module, restored, restored.to(torch.bfloat16), restored.half(), restored.float()):
        assert clustering.feature_scale.dtype == torch.float32
        assert torch.equal(clustering(x)[0].scores, expected.scores)
        assert torch.equal(clustering(x)[0].cluster_ids, expected.cluster_ids)


def test_module_gives_soft_masks_where_they_are_needed():
    x = blobs(2, 60, 16)
    soft = TokenClustering(SetokConfig(assignment_mode="soft", soft_sharpness=3.0, soft_temperature=0.1))
    soft.feature_scale.fill_(0.8)
    clusters, masks = soft(x)
    assert torch.equal(masks, soft_token_masks(x, clusters, scale=0.8, sharpness=3.0, temperature=0.1))
    straight_through = TokenClustering(SetokConfig(straight_through=True))
    assert straight_through.train()(x)[1] is not None
    assert straight_through.eval()(x)[1] is None


def test_background_norm_groups_short_embeddings():
    """Embeddings close to zero point anywhere; with a constant channel they are one background."""
    x = torch.cat([0.02 * torch.randn(1, 80, 32), blobs(1, 40, 32, groups=2, noise=0.1)], dim=1)
    x[0, 3] = math.nan  # does not count in the mean length
    plain = TokenClustering(SetokConfig())(x)[0]
    config = SetokConfig(background_norm=0.5)
    clusters = TokenClustering(config)(x)[0]
    assert len(plain.cluster_ids[0, :80].unique()) > 2  # -1 and more than one token
    assert clusters.cluster_ids[0, :80].unique().tolist() == [-1, int(clusters.cluster_ids[0, 0])]
    assert clusters.num_tokens.tolist() == [3]
    calibrated = TokenClustering(config)
    calibrated.patch_norm.fill_(2.0)
    one = torch.cat([x.nan_to_num(1.0), torch.ones(1, 120, 1)], dim=-1)  # 0.5 x 2.0
    got = calibrated(x.nan_to_num(1.0))[0]
    assert torch.equal(got.scores, cluster_tokens(one).scores)
