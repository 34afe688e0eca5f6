"""Token clustering (§2.1): the module of a model that partitions its patch embeddings into concepts."""

import torch
from torch import nn

from .concept_masks import soft_token_masks
from .density_peaks import TokenClusters, cluster_tokens, feature_scale, mean_length, unit_directions, valid_patches


class TokenClustering(nn.Module):
    """`cluster_tokens` (and soft masks) with the settings of a config and the encoder's calibrated scales.

    The module has no parameters. Its buffers are 0 until `SetokModel.calibrate` sets them, are saved with the weights
    and never change in training: `feature_scale` is S of the encoder, `patch_norm` the mean length of its patch
    embeddings.
    """

    def __init__(self, config, width: int | None = None):
        """`width`: how many of the embeddings' channels, the last ones, are compared; `None`: all."""
        super().__init__()
        self.config = config
        self.width = width
        self.register_buffer("feature_scale", torch.zeros((), dtype=torch.float32))
        self.register_buffer("patch_norm", torch.zeros((), dtype=torch.float32))

    def _apply(self, fn, recurse: bool = True) -> "TokenClustering":
        """Moves the buffers with the model but keeps them float32: S rounded to 8 bits would change the tokens."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer.dtype != torch.float32:
                self._buffers[name] = exact[name].to(buffer.device)
        return self

    def clustering_features(
        self, patch_embeddings: torch.Tensor, patch_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The vectors whose directions are compared, (B, N, width) or (B, N, width + 1).

        Where the encoder says "nothing here" by a short embedding, the direction of that embedding is noise. With
        `config.background_norm` > 0 a constant channel of that many mean lengths is appended, so that short embeddings
        point the same way.
        """
        patch_embeddings = self._clustered(patch_embeddings)
        if self.config.background_norm == 0:
            return patch_embeddings
        x = patch_embeddings.float()
        own = mean_length(x.detach(), valid_patches(x, patch_mask))
        length = self.config.background_norm * torch.where(self.patch_norm > 0, self.patch_norm, own)
        return torch.cat([x, length[:, None, None].expand(-1, x.shape[1], 1)], dim=-1)

    def _clustered(self, patch_embeddings: torch.Tensor) -> torch.Tensor:
        return patch_embeddings if self.width is None else patch_embeddings[..., -self.width :]

    @torch.no_grad()
    def calibrate(self, patch_embeddings: list[torch.Tensor]) -> float:
        """Sets both buffers to their means over the images of batches (B, N, Dv) float32, and returns S."""
        lengths = [mean_length(x, valid_patches(x)) for x in map(self._clustered, patch_embeddings)]
        self.patch_norm.fill_(torch.cat(lengths).mean())
        scales = [feature_scale(*unit_directions(self.clustering_features(x))) for x in patch_embeddings]
        self.feature_scale.fill_(torch.cat(scales).mean())
        return float(self.feature_scale)

    def forward(
        self, patch_embeddings: torch.Tensor, patch_mask: torch.Tensor | None = None
    ) -> tuple[TokenClusters, torch.Tensor | None]:
        """The clusters of (B, N, Dv) embeddings, and soft masks (B, C + 1, N) where the config asks for them."""
        config = self.config
        features = self.clustering_features(patch_embeddings, patch_mask)
        clusters = cluster_tokens(
            features,
            num_neighbors=config.num_neighbors,
            criterion=config.criterion,
            threshold=config.threshold,
            scale=self.feature_scale,
            patch_mask=patch_mask,
            assignment=config.assignment,
            max_tokens=config.max_tokens,
            fixed_tokens=config.fixed_tokens,
            token_order=config.token_order,
        )
        if config.assignment_mode == "hard" and not (config.straight_through and self.training):
            return clusters, None
        soft_masks = soft_token_masks(
            features,
            clusters,
            scale=self.feature_scale,
            sharpness=config.soft_sharpness,
            threshold=config.soft_threshold,
            penalty=config.soft_penalty,
            temperature=config.soft_temperature,
        )
        return clusters, soft_masks
