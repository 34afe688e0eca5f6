"""Configuration of Setokim: SeTok, a causal language model, the diffusion head and the mask decoder."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_setok import (
    SetokConfig,
    check_activation,
    check_at_least,
    check_choice,
    check_finite,
    check_positive,
)

# Of the tokens that Setokim adds to a vocabulary, in that order; configuration and processor call them alike
SPECIAL_TOKEN_IDS = ("image_start_token_id", "image_token_id", "image_end_token_id", "mask_token_id")


@strict
class SetokimDiffusionConfig(PreTrainedConfig):
    """Configuration of [`DiffusionHead`] (§2.2, Appendix D.1).

    Args:
        hidden_size: width of the MLP.
        num_residual_blocks: its depth; the paper's is 3.
        num_train_timesteps, beta_schedule, prediction_type: of the noise schedule, as in `diffusers.DDIMScheduler`. The
            velocity (`"v_prediction"`) is well conditioned at every timestep, so that few steps suffice.
        num_inference_steps: default number of denoising steps of a visual token.
        timesteps_per_token: noise levels at which each token of a training batch is denoised.
        timestep_shift: towards how much noise training leans. Of uniform u in [0, 1) the noise level
            `s u / (1 + (s - 1) u)` is trained (Esser et al. 2024, Eq. 23): 1 is uniform, and much of the loss then does
            not depend on the condition; above 1 the language model learns faster what the next token is.
        condition_dropout: share of training tokens denoised without their condition, for classifier-free guidance.
        copy_dim: width of the keys by which a hidden state finds a visual token before it that the head then gets whole
            (see `CopyAttention`); 0, the paper's, is without.
    """

    model_type = "setokim_diffusion"
    base_config_key = "diffusion_config"

    hidden_size: int = 1024
    num_residual_blocks: int = 3
    num_train_timesteps: int = 1000
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "v_prediction"
    num_inference_steps: int = 50
    timesteps_per_token: int = 4
    timestep_shift: float = 1.0
    condition_dropout: float = 0.1
    copy_dim: int = 0

    def validate_values(self):
        check_finite(self)
        check_choice("beta_schedule", self.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"))
        check_choice("prediction_type", self.prediction_type, ("epsilon", "v_prediction", "sample"))
        names = ("num_residual_blocks", "num_train_timesteps", "num_inference_steps", "timesteps_per_token")
        for name in names:
            check_at_least(name, getattr(self, name), 1)
        if self.num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps ({self.num_inference_steps}) must be at most num_train_timesteps "
                f"({self.num_train_timesteps})."
            )
        if self.hidden_size < 2 or self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even and positive, got {self.hidden_size}.")
        check_positive("timestep_shift", self.timestep_shift)
        check_at_least("copy_dim", self.copy_dim, 0)
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {self.condition_dropout}.")


@strict
class SetokimMaskDecoderConfig(PreTrainedConfig):
    """Configuration of [`MaskDecoder`] (Appendix D.1); the defaults are the size of SAM's.

    Args:
        hidden_size: width of patches and prompts.
        num_hidden_layers: two-way blocks.
        attention_downsample_rate: the attention between prompts and patches runs at this fraction of the width.
        token_noise: standard deviation of Gaussian noise on the (unit variance) prompts in training, which makes the
            decoder forgive tokens that the diffusion head sampled.
    """

    model_type = "setokim_mask_decoder"
    base_config_key = "mask_decoder_config"

    hidden_size: int = 256
    intermediate_size: int = 2048
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    attention_downsample_rate: int = 2
    hidden_act: str = "relu"
    layer_norm_eps: float = 1e-6
    token_noise: float = 0.0

    def validate_values(self):
        check_finite(self)
        check_activation("hidden_act", self.hidden_act)
        check_positive("layer_norm_eps", self.layer_norm_eps)
        names = ("num_hidden_layers", "num_attention_heads", "attention_downsample_rate")
        for name in ("hidden_size", "intermediate_size", *names):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("token_noise", self.token_noise, 0)
        if self.hidden_size % (8 * self.num_attention_heads * self.attention_downsample_rate):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of 8 * num_attention_heads * "
                f"attention_downsample_rate ({8 * self.num_attention_heads * self.attention_downsample_rate})."
            )


@strict
class SetokimConfig(PreTrainedConfig):
    """Configuration of [`SetokimForConditionalGeneration`]; the defaults are the paper's model (§3, Appendix D.1).

    Args:
        vision_config: SeTok with its detokenizer.
        text_config: any causal language model of transformers; default the architecture of LLaMA-2-7B.
        diffusion_config, mask_decoder_config: see [`SetokimDiffusionConfig`], [`SetokimMaskDecoderConfig`].
        image_start_token_id, image_end_token_id: `[Img]` and `[/Img]`, around the visual tokens of an image.
        image_token_id: `<image>`, in a prompt the place of a whole image, in the model's vocabulary a visual token.
        mask_token_id: `<mask>`, in a training text the place of the visual tokens that a mask covers.
        text_loss_weight, diffusion_loss_weight, mask_bce_weight, mask_dice_weight: of the parts of the loss.
        text_loss_reduction: `"token"`, the mean over all tokens to be predicted, or `"square"`, in which a token counts
            for 1 / sqrt(tokens of its answer), so that long captions do not drown short answers (InternVL 2.5's
            square averaging).
        projector_hidden_act: activation of the projector from visual tokens to the language model.
    """

    model_type = "setokim"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=SetokConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", init_kwargs={"vocab_size": 32007}),
        "diffusion_config": SubConfigSpec(config_class=SetokimDiffusionConfig),
        "mask_decoder_config": SubConfigSpec(config_class=SetokimMaskDecoderConfig),
    }
    keys_to_ignore_at_inference = [
        "past_key_values",
        "hidden_states",
        "attentions",
        "last_hidden_state",
        "text_loss",
        "diffusion_loss",
        "mask_loss",
        "mask_logits",
    ]

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    diffusion_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None

    image_start_token_id: int = 32000
    image_token_id: int = 32001
    image_end_token_id: int = 32002
    mask_token_id: int = 32003
    text_loss_weight: float = 1.0
    text_loss_reduction: str = "token"
    diffusion_loss_weight: float = 1.0
    mask_bce_weight: float = 2.0
    mask_dice_weight: float = 0.5
    projector_hidden_act: str = "gelu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # The language model's own setting counts: the embeddings that are tied are its
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)

    def validate_token_ids(self):
        ids = [getattr(self, name) for name in SPECIAL_TOKEN_IDS]
        if len(set(ids)) < len(ids):
            raise ValueError(f"{', '.join(SPECIAL_TOKEN_IDS)} must differ, got {ids}.")
        vocab_size = self.text_config.vocab_size
        if max(ids) >= vocab_size or min(ids) < 0:
            raise ValueError(
                f"The special tokens have ids {ids} but the language model's vocabulary has {vocab_size} entries: add "
                "the tokens to the tokenizer and resize the embeddings (SetokimForConditionalGeneration.from_parts "
                "does both)."
            )

    def validate_values(self):
        check_finite(self)
        check_activation("projector_hidden_act", self.projector_hidden_act)
        check_choice("text_loss_reduction", self.text_loss_reduction, ("token", "square"))
        check_at_least("initializer_range", self.initializer_range, 0)
        for name in ("text_loss_weight", "diffusion_loss_weight", "mask_bce_weight", "mask_dice_weight"):
            check_at_least(name, getattr(self, name), 0)
