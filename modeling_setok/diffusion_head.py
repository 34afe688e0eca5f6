"""Diffusion head (§2.2, after Li et al. 2024a): the distribution of the next visual token, given a hidden state."""

import math

import torch
from torch import nn

from .configuration_setokim import SetokimDiffusionConfig
from .copy_attention import CopyAttention, CopySources


class ModulatedResidualBlock(nn.Module):
    """LayerNorm, linear, SiLU, linear, and a residual connection; shift, scale and gate come from the condition."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(hidden_size, 3 * hidden_size)
        self.linear1 = nn.Linear(hidden_size, hidden_size)
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(nn.functional.silu(condition)).chunk(3, dim=-1)
        residual = self.linear1(self.norm(hidden) * (1 + scale) + shift)
        return hidden + gate * self.linear2(nn.functional.silu(residual))


class DiffusionHead(nn.Module):
    """A small MLP that denoises one visual token of unit variance, conditioned on the hidden state before it.

    Args:
        token_dim: D, dimension of a visual token.
        condition_dim: width of the language model.
    """

    def __init__(self, config: SetokimDiffusionConfig, token_dim: int, condition_dim: int):
        super().__init__()
        self.config = config
        self.token_dim = token_dim
        size = config.hidden_size
        self.token_projection = nn.Linear(token_dim, size)
        self.condition_projection = nn.Linear(condition_dim, size)
        self.null_condition = nn.Parameter(torch.empty(size))  # in place of the condition's projection
        self.time_mlp = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.blocks = nn.ModuleList(ModulatedResidualBlock(size) for _ in range(config.num_residual_blocks))
        self.norm_out = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Linear(size, 2 * size)
        self.linear_out = nn.Linear(size, token_dim)
        self.copy_attention = CopyAttention(config.copy_dim, token_dim, condition_dim) if config.copy_dim else None
        self._scheduler = None  # of the loss, made when it is first needed; `sample` makes its own

    def scheduler(self):
        """The noise schedule, a new `diffusers.DDIMScheduler`."""
        scheduler = _diffusers().DDIMScheduler(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule=self.config.beta_schedule,
            prediction_type=self.config.prediction_type,
            # From a noise that hides the token, its guess by way of the noise may be thousands of deviations off
            clip_sample=self.config.prediction_type == "epsilon",
            clip_sample_range=10.0,
            set_alpha_to_one=True,
            timestep_spacing="trailing",  # starts from pure noise
        )
        # In single precision some numbers of steps round the root of zero to that of a negative number
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        return scheduler

    def forward(
        self,
        noisy_tokens: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: torch.Tensor,
        is_null: torch.Tensor,
        sources: CopySources | None = None,
    ) -> torch.Tensor:
        """
        Args:
            noisy_tokens: (n, D).
            timesteps: (n,) in [0, `num_train_timesteps`).
            conditions: (n, condition_dim), hidden states of the language model.
            is_null: (n,) bool, True where the condition is withheld.
            sources: what each can copy, where the head has a `copy_attention`; None: there is nothing.

        Returns:
            (n, D) what `config.prediction_type` says: the noise, the velocity or the clean token.
        """
        dtype = self.null_condition.dtype
        conditions = conditions.to(dtype)
        if self.copy_attention is not None and sources is not None:
            conditions = self.copy_attention(conditions, sources)
        condition = self.condition_projection(conditions)
        condition = torch.where(is_null[:, None], self.null_condition, condition)
        condition = condition + self.time_mlp(_time_features(timesteps, self.config.hidden_size).to(dtype))
        hidden = self.token_projection(noisy_tokens.to(dtype))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.modulation_out(nn.functional.silu(condition)).chunk(2, dim=-1)
        return self.linear_out(self.norm_out(hidden) * (1 + scale) + shift)

    def loss(self, tokens: torch.Tensor, conditions: torch.Tensor, sources: CopySources | None = None) -> torch.Tensor:
        """Diffusion loss (), float32: mean squared error at random timesteps.

        Args:
            tokens: (n, D) visual tokens of unit variance. No gradient reaches them: a trained SeTok would make its
                tokens easy to predict.
            conditions: (n, condition_dim), the hidden state before each.
            sources: what each can copy.
        """
        if self._scheduler is None:
            self._scheduler = self.scheduler()
        repeats = self.config.timesteps_per_token
        tokens, conditions = tokens.detach().float().repeat(repeats, 1), conditions.repeat(repeats, 1)
        count, device = len(tokens), tokens.device
        levels, shift = torch.rand(count, device=device), self.config.timestep_shift
        levels = shift * levels / (1 + (shift - 1) * levels)
        timesteps = (self.config.num_train_timesteps * levels).long().clamp(max=self.config.num_train_timesteps - 1)
        noise = torch.randn_like(tokens)
        is_null = torch.rand(count, device=device) < self.config.condition_dropout
        noisy = self._scheduler.add_noise(tokens, noise, timesteps)
        prediction = self(noisy, timesteps, conditions, is_null, sources and sources.repeated(repeats))
        if self.config.prediction_type == "epsilon":
            target = noise
        elif self.config.prediction_type == "v_prediction":
            target = self._scheduler.get_velocity(tokens, noise, timesteps)
        else:
            target = tokens
        return nn.functional.mse_loss(prediction.to(target), target)

    @torch.no_grad()
    def sample(
        self,
        conditions: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_steps: int | None = None,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        sources: CopySources | None = None,
    ) -> torch.Tensor:
        """Visual tokens (n, D) float32 of unit variance, one for each condition (n, condition_dim).

        Args:
            generator: of the noise; a list has one per condition, which makes a token independent of the others.
            num_steps: denoising steps; default `config.num_inference_steps`.
            guidance_scale: of classifier-free guidance; 1 is without.
            temperature: factor of all noise; 0 gives the same token every time.
            sources: what each can copy.
        """
        scheduler = self.scheduler()
        scheduler.set_timesteps(num_steps or self.config.num_inference_steps)
        count, device = len(conditions), conditions.device
        shape = (count, len(scheduler.timesteps) + 1, self.token_dim)
        randn_tensor = _diffusers().utils.torch_utils.randn_tensor
        noise = temperature * randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        is_null = torch.zeros(count, dtype=torch.bool, device=device)
        guided = guidance_scale != 1
        if guided:
            conditions, is_null = conditions.repeat(2, 1), torch.cat([is_null, ~is_null])
            sources = sources and sources.repeated(2)
        tokens = noise[:, 0]
        for step, timestep in enumerate(scheduler.timesteps.tolist(), start=1):
            timesteps = torch.full((len(is_null),), timestep, device=device)
            noisy = tokens.repeat(2, 1) if guided else tokens
            prediction = self(noisy, timesteps, conditions, is_null, sources).to(tokens)
            if guided:
                conditional, unconditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            tokens = scheduler.step(
                prediction, timestep, tokens, eta=1.0, variance_noise=noise[:, step]
            ).prev_sample.float()  # eta = 1: ancestral sampling
        return tokens


def _diffusers():
    """The library, which only painting and training need."""
    try:  # around it, transformers does not ask for it when it loads this file from the Hub
        import diffusers.utils.torch_utils
    except ImportError as error:
        raise ImportError(
            "Generating images and training the diffusion head need diffusers: pip install diffusers"
        ) from error
    return diffusers


def _time_features(timesteps: torch.Tensor, size: int) -> torch.Tensor:
    """Sines and cosines (n, size) float32 of the timesteps at geometrically spaced frequencies."""
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(size // 2, device=timesteps.device, dtype=torch.float32) / (size // 2)
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
