"""The base class of Setokim's models: how they start, what is frozen, what a quantization leaves as it is."""

import copy

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig

from .attention_of_parts import AttentionOfPartsMixin
from .configuration_setokim import SetokimConfig
from .copy_attention import CopyAttention
from .diffusion_head import DiffusionHead
from .remote_code import RemoteCodeMixin
from .visual_tokens import TokenStatistics


class SetokimPreTrainedModel(AttentionOfPartsMixin, RemoteCodeMixin, PreTrainedModel):
    """What SeTok's stage has trained (`_frozen_parts`) is frozen in a model that was made or loaded, until a recipe
    asks otherwise: no trainer of text alone moves it, and batch statistics stay as they are.

    `modules_not_quantized`: paths of the modules that a quantization config leaves as they are if it names none itself
    (bitsandbytes' `llm_int8_skip_modules`, `modules_to_not_convert` of the others): all but the language model.
    """

    config: SetokimConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["DiffusionHead"]  # its own parameters and those of its layers need one device
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    modules_not_quantized: tuple[str, ...] = ()
    _auto_map = {"AutoModel": "modeling_setokim.SetokimModel"}
    _frozen_parts: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, *args, quantization_config=None, **kwargs):
        """As `PreTrainedModel.from_pretrained`; a quantization config may be a dict."""
        if quantization_config is not None:
            quantization_config = _not_quantizing(quantization_config, cls.modules_not_quantized)
        loaded = super().from_pretrained(*args, quantization_config=quantization_config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # the other is the loading report
        model.freeze_parts()  # loading makes every parameter trainable
        return loaded

    @property
    def input_device(self) -> torch.device:
        """Where inputs go: `device`, but the CPU where all weights are offloaded to disk."""
        return next((p.device for p in self.parameters() if p.device.type != "meta"), torch.device("cpu"))

    def freeze_parts(self) -> None:
        """Freezes what SeTok's stage has trained; done for every model that is made or loaded."""
        for name in self._frozen_parts:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, TokenStatistics):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, CopyAttention):  # so that it looks at some tokens more than at others from the start
            for layer in (module.query, module.key, module.out):
                init.normal_(layer.weight, std=layer.in_features**-0.5)
            init.zeros_(module.nothing)
        elif isinstance(module, DiffusionHead):
            init.normal_(module.null_condition, std=self.config.initializer_range)
            for block in module.blocks:  # every block starts as the identity, the whole as zero
                init.zeros_(block.modulation.weight)
                init.zeros_(block.modulation.bias)
            for layer in (module.modulation_out, module.linear_out):
                init.zeros_(layer.weight)
                init.zeros_(layer.bias)


def _not_quantizing(quantization_config, modules: tuple[str, ...]):
    """A quantization config that leaves these modules as they are, unless it has a list of its own."""
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    quantization_config = copy.copy(quantization_config)  # the caller may use it again
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if getattr(quantization_config, name, ()) is None:
            setattr(quantization_config, name, list(modules))
    return quantization_config
