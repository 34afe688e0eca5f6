"""Random patch embeddings in groups, which tests of the clustering share."""

import torch


def blobs(batch: int, patches: int, dim: int, groups: int = 6, noise: float = 0.25, seed: int = 0) -> torch.Tensor:
    """(B, N, D) patches around `groups` random directions, with random lengths."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(batch, groups, dim, generator=generator)
    group = torch.randint(groups, (batch, patches, 1), generator=generator).expand(-1, -1, dim)
    x = means.gather(1, group) + noise * torch.randn(batch, patches, dim, generator=generator)
    return x * (0.5 + 3 * torch.rand(batch, patches, 1, generator=generator))
