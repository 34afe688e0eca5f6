"""Mask decoder (Appendix D.1, after Kirillov et al. 2023): from patches and visual tokens to the mask they refer to."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import PreTrainedModel

from .configuration_setokim import SetokimMaskDecoderConfig
from .transformer import SetokAttention, SetokMLP, place_code


class TwoWayBlock(nn.Module):
    """Prompts attend to themselves and to the patches, then the patches to the prompts. Post-norm, as SAM's."""

    def __init__(self, config: SetokimMaskDecoderConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        inner_size = size // config.attention_downsample_rate
        self.self_attn = SetokAttention(config, size)
        self.self_attn_norm = nn.LayerNorm(size, eps=eps)
        self.prompt_to_patch_attn = SetokAttention(config, size, inner_size)
        self.prompt_to_patch_norm = nn.LayerNorm(size, eps=eps)
        self.mlp = SetokMLP(config, size, config.intermediate_size)
        self.mlp_norm = nn.LayerNorm(size, eps=eps)
        self.patch_to_prompt_attn = SetokAttention(config, size, inner_size)
        self.patch_to_prompt_norm = nn.LayerNorm(size, eps=eps)

    def forward(
        self,
        prompts: torch.Tensor,
        patches: torch.Tensor,
        prompt_code: torch.Tensor,
        patch_code: torch.Tensor,
        self_mask: torch.Tensor | None,
        patch_to_prompt_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        queries = prompts + prompt_code
        attended, _ = self.self_attn(queries, queries, self_mask, value_states=prompts)
        prompts = self.self_attn_norm(prompts + attended)
        attended, _ = self.prompt_to_patch_attn(prompts + prompt_code, patches + patch_code, value_states=patches)
        prompts = self.prompt_to_patch_norm(prompts + attended)
        prompts = self.mlp_norm(prompts + self.mlp(prompts))
        attended, _ = self.patch_to_prompt_attn(
            patches + patch_code, prompts + prompt_code, patch_to_prompt_mask, value_states=prompts
        )
        return prompts, self.patch_to_prompt_norm(patches + attended)


class MaskDecoder(PreTrainedModel):
    """A mask token and the visual tokens, together the prompts, exchange with the patches in both directions; the mask
    token then becomes a linear classifier of the upsampled patches.

    Args:
        patch_dim: Dv of the vision encoder.
        token_dim: D of a visual token.
    """

    config: SetokimMaskDecoderConfig
    base_model_prefix = "mask_decoder"
    main_input_name = "patch_embeddings"
    _no_split_modules = ["MaskDecoder"]  # small, and patches and prompts need one device
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SetokimMaskDecoderConfig, patch_dim: int, token_dim: int):
        super().__init__(config)
        size = config.hidden_size
        self.patch_projection = nn.Linear(patch_dim, size)
        self.prompt_projection = nn.Linear(token_dim, size)
        self.mask_token = nn.Parameter(torch.empty(size))
        self.position_embedding = nn.Parameter(torch.empty(size))
        self.layers = nn.ModuleList(TwoWayBlock(config) for _ in range(config.num_hidden_layers))
        self.final_attn = SetokAttention(config, size, size // config.attention_downsample_rate)
        self.final_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.upsample1 = nn.ConvTranspose2d(size, size // 4, kernel_size=2, stride=2)
        self.upsample_norm = nn.LayerNorm(size // 4, eps=config.layer_norm_eps)
        self.upsample2 = nn.ConvTranspose2d(size // 4, size // 8, kernel_size=2, stride=2)
        self.classifier = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size // 8)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # Keeps the variance at every width. At the library's 0.02 the mask token, of unit variance, drowns the
            # prompts (32 wide, 0.6 % of what it becomes differs between prompts), and they get one mask for long.
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, MaskDecoder):
            init.normal_(module.mask_token)
            init.normal_(module.position_embedding)
            for layer in module.classifier[2::2]:  # they read what ReLU leaves, half the variance (He et al., 2015)
                init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)

    def forward(
        self,
        patch_embeddings: torch.Tensor,
        grid_size: tuple[int, int],
        tokens: torch.Tensor,
        token_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            patch_embeddings: (M, h * w, Dv), the vision encoder's, of the image of each mask.
            grid_size: (h, w).
            tokens: (M, C, D), visual tokens of unit variance that say what to segment.
            token_mask: (M, C) bool, True for a token.

        Returns:
            Mask logits (M, 4h, 4w) float32; above 0 is inside.
        """
        config, dtype = self.config, self.mask_token.dtype
        if self.training and config.token_noise > 0:
            tokens = tokens + config.token_noise * torch.randn_like(tokens)
        # Relative lengths of patches mean something (a CNN's empty patches are short), their scale does not
        power = patch_embeddings.float().square().mean((1, 2), keepdim=True)
        patches = self.patch_projection((patch_embeddings / power.clamp(min=1e-12).sqrt()).to(dtype))
        patch_code = place_code(self.position_embedding, *grid_size).to(dtype)
        prompts = self.prompt_projection(tokens.to(dtype))
        prompts = torch.cat([self.mask_token.expand(len(prompts), 1, -1), prompts], dim=1)
        prompt_mask = nn.functional.pad(token_mask, (1, 0), value=True)
        prompt_code = prompts  # the prompts themselves stay part of every query, as in SAM
        self_mask = create_bidirectional_mask(config, prompts, prompt_mask)
        patch_to_prompt_mask = create_bidirectional_mask(config, patches, prompt_mask, encoder_hidden_states=prompts)
        for layer in self.layers:
            prompts, patches = layer(prompts, patches, prompt_code, patch_code, self_mask, patch_to_prompt_mask)
        mask_token = prompts[:, :1] + prompt_code[:, :1]
        attended, _ = self.final_attn(mask_token, patches + patch_code, value_states=patches)
        mask_token = self.final_norm(prompts[:, :1] + attended)

        grid = patches.transpose(1, 2).unflatten(2, grid_size)
        grid = self.upsample_norm(self.upsample1(grid).movedim(1, -1)).movedim(-1, 1)
        grid = nn.functional.gelu(self.upsample2(nn.functional.gelu(grid)))
        weights = self.classifier(mask_token)  # (M, 1, size // 8)
        return (weights @ grid.flatten(2)).unflatten(2, grid.shape[-2:])[:, 0].float()


def mask_losses(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy () and dice loss (), means over masks, of logits (M, h, w) to masks (M, H, W) in [0, 1].

    Logits are resized to the masks where their sizes differ.
    """
    if logits.shape != masks.shape:
        logits = nn.functional.interpolate(logits[:, None], size=masks.shape[-2:], mode="bilinear")[:, 0]
    masks = masks.to(logits)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    inside = logits.sigmoid()
    overlap = (inside * masks).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (inside.sum((1, 2)) + masks.sum((1, 2)) + 1)
    return cross_entropy, dice.mean()
