"""Token merger (§2.1): the patches of a cluster become one concept token.

Patches, with 2D positions, pass an inner-cluster transformer that sees one cluster at a time; each cluster's mean is
its token; an inter-cluster transformer relates the tokens of the image.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from .cluster_extents import ExtentEmbedding, cluster_extents
from .density_peaks import TokenClusters
from .transformer import SetokBlock, attend_segments, grid_positions, place_code, rotary_angles


@dataclass
class ClusterPacking:
    """The valid patches of a batch in one sequence, cluster after cluster, the largest cluster first.

    Computed once for all inner layers. `order` (T,) long: positions of the packed patches in the flattened (B * N)
    batch. `cluster_ids` (1, T) long: cluster of each packed patch, unique over the batch. `sizes` long: patches per
    cluster. `attention_mask`: the block mask of flex attention.
    """

    order: torch.LongTensor
    cluster_ids: torch.LongTensor
    sizes: torch.LongTensor
    attention_mask: torch.Tensor | None = None

    @classmethod
    def from_cluster_ids(cls, cluster_ids: torch.LongTensor, max_tokens: int) -> "ClusterPacking":
        """Packs a batch of partitions (B, N) whose ids are below `max_tokens`."""
        batch = torch.arange(len(cluster_ids), device=cluster_ids.device)[:, None]
        flat = torch.where(cluster_ids >= 0, cluster_ids + batch * max_tokens, -1).flatten()
        sizes = torch.bincount(flat[flat >= 0], minlength=len(cluster_ids) * max_tokens)
        by_size = sizes.argsort(descending=True, stable=True)
        place = torch.empty_like(by_size)
        place[by_size] = torch.arange(len(by_size), device=by_size.device)
        packed_id = torch.where(flat >= 0, place[flat], len(sizes))
        order = packed_id.argsort(stable=True)[: int(sizes.sum())]
        sizes = sizes[by_size]
        sizes = sizes[sizes > 0]
        return cls(order, packed_id[order][None], sizes)

    @cached_property
    def buckets(self) -> list[tuple[int, int, torch.LongTensor, torch.BoolTensor]]:
        """Groups of clusters of similar size, for backends with neither variable-length nor block-sparse attention.

        Each is (first, last, index (n, L), mask (n, 1, 1, L)): packed rows [first, last) hold n clusters, which `index`
        spreads out to n padded rows of length L. The size falls below a power of two from one bucket to the next, so
        that less than half is padding.
        """
        buckets, first = [], 0
        _, counts = self.sizes.double().log2().ceil().unique_consecutive(return_counts=True)
        for sizes in self.sizes.split(counts.tolist()):
            steps = torch.arange(int(sizes[0]), device=sizes.device)
            mask = steps < sizes[:, None]
            index = ((sizes.cumsum(0) - sizes)[:, None] + steps).masked_fill(~mask, 0)
            last = first + int(sizes.sum())
            buckets.append((first, last, index, mask[:, None, None, :]))
            first = last
        return buckets

    def attend(self, attend, module, query, key, value) -> torch.Tensor:
        """Attention within clusters for (1, heads, T, dim) queries, keys and values; returns (1, T, heads, dim)."""
        implementation = module.config._attn_implementation
        if "flash" in implementation:
            longest = int(self.sizes[0])
            return attend_segments(attend, module, query, key, value, self.sizes, self.sizes, (longest, longest))
        if "flex" in implementation:
            return attend(module, query, key, value, self.attention_mask, scaling=module.scaling)[0]
        outputs = []
        for first, last, index, mask in self.buckets:
            spread = [x[0, :, first:last][:, index].transpose(0, 1) for x in (query, key, value)]  # (n, heads, L, dim)
            output, _ = attend(module, *spread, mask, scaling=module.scaling)  # (n, L, heads, dim)
            outputs.append(output[mask[:, 0, 0]])
        return torch.cat(outputs)[None]


class TokenMerger(nn.Module):
    """Merges patch embeddings (B, N, Dv) into concept tokens (B, C, D)."""

    def __init__(self, config, patch_dim: int):
        super().__init__()
        self.config = config
        self.patch_norm = nn.LayerNorm(patch_dim, eps=config.layer_norm_eps)
        self.patch_projection = nn.Linear(patch_dim, config.hidden_size)
        with_transformers = config.merger == "transformer"
        self.use_positions = with_transformers and config.use_position_embeddings
        if self.use_positions:
            # Rotating queries and keys tells only relative positions, which the mean over a cluster forgets: a learned
            # vector turned by each patch's position is added to the patches (X + PE(X) of §2.1)
            self.position_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.use_extents = with_transformers and config.use_extent_embeddings
        if self.use_extents:
            self.extent_embedding = ExtentEmbedding(config.hidden_size)
        num_inner, num_inter = (config.num_inner_layers, config.num_inter_layers) if with_transformers else (0, 0)
        self.inner_layers = nn.ModuleList(SetokBlock(config) for _ in range(num_inner))
        self.inner_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.inter_layers = nn.ModuleList(SetokBlock(config) for _ in range(num_inter))
        self.inter_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        patch_embeddings: torch.Tensor,
        clusters: TokenClusters,
        grid_size: tuple[int, int],
        soft_masks: torch.Tensor | None = None,
        grid_sizes: torch.LongTensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns concept tokens (B, C, D), zero where there is none, and the token mask (B, C) bool.

        `grid_sizes` (B, 2): each image's own grid, at the top left of `grid_size`, where these differ.

        `soft_masks` (B, C + 1, N) of `soft_token_masks`, if given: with `assignment_mode="soft"` they also make one
        more token, of the patches that no seed claims; otherwise they carry the straight-through gradient.
        """
        soft = self.config.assignment_mode == "soft"
        token_mask = self._token_mask(clusters.num_tokens + soft, clusters.centers.shape[1] + soft)
        patches = patch_embeddings.masked_fill((clusters.cluster_ids < 0)[..., None], 0)  # padding may hold NaN
        slots = torch.arange(token_mask.shape[1], device=patches.device)
        weights = (clusters.cluster_ids[:, None, :] == slots[:, None]).to(patches.dtype)
        if soft:
            weights = soft_masks.to(patches.dtype)
        elif soft_masks is not None:
            soft_masks = soft_masks[:, :-1].to(patches.dtype)
            weights = weights + soft_masks - soft_masks.detach()
        tokens = self.merge_clusters(patches, clusters.cluster_ids, weights, grid_size, grid_sizes)
        if self.use_extents:
            tokens = tokens + self.extent_embedding(cluster_extents(weights.detach(), grid_size, grid_sizes))
        tokens = self.relate_tokens(tokens, token_mask)
        return tokens * token_mask[..., None], token_mask

    def project(self, patch_embeddings: torch.Tensor) -> torch.Tensor:
        """Patch embeddings (B, N, Dv) to the token dimension, (B, N, D)."""
        return self.patch_projection(self.patch_norm(patch_embeddings))

    def merge_clusters(
        self,
        patches: torch.Tensor,
        cluster_ids: torch.LongTensor,
        weights: torch.Tensor,
        grid_size: tuple[int, int],
        grid_sizes: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """u_c (B, C, D): the inner-cluster transformer and the mean over each cluster's members.

        `weights` (B, C, N) are the concept masks. Hard masks are zero outside the cluster, and nothing outside cluster
        c reaches u_c.
        """
        batch, num_patches, _ = patches.shape
        config = self.config
        hidden_states = self.project(patches)
        rotary = None
        if self.use_positions:
            positions = grid_positions(*grid_size, device=patches.device)
            code = place_code(self.position_embedding, *grid_size, grid_sizes)
            hidden_states = hidden_states + code.to(hidden_states.dtype)
            rotary = rotary_angles(positions, config.hidden_size // config.num_attention_heads, config.rope_theta)

        soft = config.assignment_mode == "soft"
        if not self.inner_layers:
            pass
        elif config.pack_clusters and not soft:
            packing = ClusterPacking.from_cluster_ids(cluster_ids, weights.shape[1])
            packed = hidden_states.flatten(0, 1)[packing.order][None]
            if "flex" in config._attn_implementation:
                packing.attention_mask = self._cluster_mask(packed, packing.cluster_ids)
            if rotary is not None:
                rotary = tuple(angles[packing.order % num_patches] for angles in rotary)
            for layer in self.inner_layers:
                packed = layer(packed, rotary=rotary, packing=packing)
            flat = packed.new_zeros(batch * num_patches, packed.shape[-1])
            hidden_states = flat.index_copy(0, packing.order, packed[0]).unflatten(0, (batch, num_patches))
        else:
            mask = self._shared_cluster_bias(weights) if soft else self._cluster_mask(hidden_states, cluster_ids)
            for layer in self.inner_layers:
                hidden_states = layer(hidden_states, attention_mask=mask, rotary=rotary)
        hidden_states = self.inner_norm(hidden_states)
        return weights @ hidden_states / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)

    def relate_tokens(self, tokens: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        """v_c (B, C, D): the inter-cluster transformer over the tokens of each image."""
        if self.inter_layers:
            mask = create_bidirectional_mask(self.config, tokens, token_mask)
            for layer in self.inter_layers:
                tokens = layer(tokens, attention_mask=mask)
        return self.inter_norm(tokens)

    @staticmethod
    def _token_mask(num_tokens: torch.LongTensor, max_tokens: int) -> torch.BoolTensor:
        return torch.arange(max_tokens, device=num_tokens.device) < num_tokens[:, None]

    def _cluster_mask(self, hidden_states: torch.Tensor, cluster_ids: torch.LongTensor):
        """Block-diagonal mask: patches see their own cluster. Padding (-1) forms a cluster of its own."""
        if "flash" in self.config._attn_implementation:
            raise ValueError("Flash attention has no block-diagonal mask: set pack_clusters=True or use sdpa.")

        def same_cluster(batch_idx, head_idx, q_idx, kv_idx):
            return cluster_ids[batch_idx, q_idx] == cluster_ids[batch_idx, kv_idx]

        return create_bidirectional_mask(self.config, hidden_states, None, and_mask_function=same_cluster)

    def _shared_cluster_bias(self, soft_masks: torch.Tensor) -> torch.Tensor:
        """Soft form of the block-diagonal mask, (B, 1, N, N): log of the probability that two patches share a cluster.

        (A mask multiplied onto the patches would have no effect: the layer norm in front of attention erases it.)
        """
        if self.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(
                "Soft concept masks need an additive attention bias: use attn_implementation sdpa or eager."
            )
        together = soft_masks.transpose(1, 2).float() @ soft_masks.float()
        # Padding shares no cluster with anyone: the floor leaves it a uniform attention instead of NaN
        return together.clamp(min=1e-12).log().to(soft_masks.dtype)[:, None]
