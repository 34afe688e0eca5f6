"""Detokenizer (§2.1, Appendix D.1): mask tokens on a grid query the concept tokens, a CNN paints the image.

In place of the CNN, maps that the tokens unfold into may be laid over what a linear map paints of each cell.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import PreTrainedModel

from .configuration_setok import SetokDetokenizerConfig
from .token_maps import TokenMaps
from .transformer import SetokBlock, grid_positions, place_code, rotary_angles


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(nn.functional.silu(self.norm1(x)))
        hidden = self.conv2(nn.functional.silu(self.norm2(hidden)))
        return self.shortcut(x) + hidden


class PixelDecoder(nn.Module):
    """Feature grid (B, hidden_size, G, G) to pixels (B, 3, S, S): residual blocks and nearest-neighbour upsampling."""

    def __init__(self, config: SetokDetokenizerConfig):
        super().__init__()
        channels = list(config.decoder_channels)
        self.conv_in = nn.Conv2d(config.hidden_size, channels[0], 3, padding=1)
        stages = []
        for level, (previous, current) in enumerate(zip([channels[0], *channels[:-1]], channels, strict=True)):
            if level > 0:
                stages += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(previous, current, 3, padding=1)]
            stages += [ResidualBlock(current, current) for _ in range(config.decoder_blocks)]
        self.stages = nn.Sequential(*stages)
        self.norm_out = _group_norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return self.conv_out(nn.functional.silu(self.norm_out(self.stages(self.conv_in(grid)))))


class CanvasPainter(nn.Module):
    """Feature grid (B, hidden_size, G, G) and the tokens' maps to pixels (B, 3, S, S).

    One linear map paints each cell of the grid, and the maps are laid over it, on a canvas of half the picture's side;
    two convolutions make colours of that. Nearly all of the cost is in matrix products, where the CNN's is in memory
    traffic.
    """

    CHANNELS = 32  # of the canvas
    PIXELS = 2  # on a side of a place of the canvas

    def __init__(self, config: SetokDetokenizerConfig, token_dim: int):
        super().__init__()
        self.places_of_cell = config.patch_size // self.PIXELS
        self.canvas_size = config.grid_size * self.places_of_cell
        self.token_maps = TokenMaps(config, token_dim, self.canvas_size, self.CHANNELS)
        self.paint = nn.Linear(config.hidden_size, self.CHANNELS * self.places_of_cell**2)
        self.conv = nn.Conv2d(self.CHANNELS, self.CHANNELS, 3, padding=1)
        self.conv_out = nn.Conv2d(self.CHANNELS, 3 * self.PIXELS**2, 3, padding=1)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor, placement: torch.Tensor) -> torch.Tensor:
        """`tokens`: (B, C, D); `placement`: their logits (B, canvas_size ** 2, C) float32, see `TokenMaps.forward`."""
        cells = self.paint(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        canvas = nn.functional.pixel_shuffle(cells, self.places_of_cell)
        canvas = canvas + self.token_maps(tokens, placement).transpose(1, 2).reshape(canvas.shape)
        hidden = canvas + nn.functional.silu(self.conv(nn.functional.silu(canvas)))
        return nn.functional.pixel_shuffle(self.conv_out(hidden), self.PIXELS)


def _group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or the largest number of groups of at least 4 channels that divides a small layer's channels."""
    groups = next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class SetokDetokenizer(PreTrainedModel):
    """Paints an image from a variable number of concept tokens.

    A grid of copies of one learned mask token, told apart by 2D positions, attends to itself and to the concept tokens
    in `num_hidden_layers` blocks; a CNN upsamples the grid to pixels, or the tokens' maps are laid over what a linear
    map paints of each cell.
    """

    config: SetokDetokenizerConfig
    base_model_prefix = "detokenizer"
    main_input_name = "tokens"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SetokDetokenizer"]  # its own parameters and those of its layers need one device
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SetokDetokenizerConfig, token_dim: int):
        super().__init__(config)
        if token_dim % 4:
            raise ValueError(f"token_dim must be a multiple of 4 (pairs of channels for two axes), got {token_dim}.")
        self.token_projection = nn.Linear(token_dim, config.hidden_size)
        self.mask_token = nn.Parameter(torch.empty(config.hidden_size))
        # In the space of the tokens, into which the merger writes their places in the same code
        self.position_embedding = nn.Parameter(torch.empty(token_dim))
        self.place_query = nn.Linear(token_dim, config.hidden_size, bias=False)
        self.place_key = nn.Linear(token_dim, config.hidden_size, bias=False)
        self.layers = nn.ModuleList(SetokBlock(config, cross_attention=True) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.with_maps = config.map_size is not None
        self.pixel_decoder = CanvasPainter(config, token_dim) if self.with_maps else PixelDecoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, SetokDetokenizer):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            init.normal_(module.position_embedding)
            init.normal_(module.place_query.weight, std=1.5 * module.place_query.in_features**-0.5)
            # Equal at first, so that a cell is nearest to the tokens that carry the code of its own place
            init.copy_(module.place_key.weight, module.place_query.weight)

    def _place_code(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """(size * size, token_dim): the code of each place of a `size` x `size` grid, in the space of the tokens."""
        return place_code(self.position_embedding, size, size).to(dtype)

    def placement(
        self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None, size: int | None = None
    ) -> torch.Tensor:
        """Logits (B, size * size, C) float32 of which token each place belongs to; the lowest float on padding.

        `size`: places on a side of the picture, by default those of the mask tokens.
        """
        places = self._place_code(size or self.config.grid_size, tokens.dtype)
        queries, keys = self.place_query(places), self.place_key(tokens)
        logits = (queries.to(keys.device) @ keys.transpose(1, 2)).float() * queries.shape[-1] ** -0.5
        if token_mask is None:
            return logits
        return logits.masked_fill(~token_mask[:, None, :], torch.finfo(logits.dtype).min)

    def forward(self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            tokens: concept tokens (B, C, D).
            token_mask: (B, C) bool, True for a token, False for padding; `None`: all are tokens.

        Returns:
            Pixels (B, 3, S, S) as normalised by the image processor, S = `config.image_size`.
        """
        config = self.config
        tokens = tokens.to(self.mask_token.dtype)
        if self.training and config.token_noise > 0:
            real = torch.ones_like(tokens[..., :1]) if token_mask is None else token_mask[..., None].to(tokens.dtype)
            power = (tokens.detach().square() * real).sum() / (real.sum() * tokens.shape[-1]).clamp(min=1)
            tokens = tokens + config.token_noise * power.sqrt() * torch.randn_like(tokens)
        context = self.token_projection(tokens)
        # Every cell starts from its place and the token that belongs there; attention then looks at all of them
        shares = self.placement(tokens, token_mask).softmax(-1).to(tokens)
        grid = self.token_projection(
            self._place_code(config.grid_size, tokens.dtype).to(tokens.device) + shares @ tokens
        )
        grid = self.mask_token.to(grid.device) + grid
        positions = grid_positions(config.grid_size, config.grid_size, device=tokens.device)
        rotary = rotary_angles(positions, config.hidden_size // config.num_attention_heads, config.rope_theta)
        context_mask = create_bidirectional_mask(config, grid, token_mask, encoder_hidden_states=context)
        for layer in self.layers:
            grid = layer(grid, context, context_mask=context_mask, rotary=rotary)
        grid = self.norm(grid).transpose(1, 2).unflatten(2, (config.grid_size, config.grid_size))
        if not self.with_maps:
            return self.pixel_decoder(grid)
        return self.pixel_decoder(grid, tokens, self.placement(tokens, token_mask, self.pixel_decoder.canvas_size))
