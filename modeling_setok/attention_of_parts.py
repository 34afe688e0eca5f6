"""Which attention each part of a SeTok or Setokim gets: an encoder that lacks what is asked of all keeps its own."""

from collections.abc import Callable

from transformers.modeling_utils import PreTrainedModel

from .configuration_setok import SetokConfig


class AttentionOfPartsMixin:
    """Mixed into a `PreTrainedModel` that is, or holds, a SeTok."""

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs) -> None:
        """As ever, but an encoder of SeTok that lacks what is asked of all (a CNN has no attention) gets its own
        default; named itself, it is refused as ever."""
        spelled_out, without_part = self._spell_out(self.config, attn_implementation)
        super().set_attn_implementation(spelled_out, **kwargs)
        for config, implementation in without_part:
            config._attn_implementation = implementation

    def _spell_out(self, config, asked: str | dict) -> tuple[dict, list[tuple]]:
        """What was asked, key by key, for the configurations of parts; and for those of parts that this model does not
        have, such as the detokenizer's of a `SetokModel`: transformers would warn that it could not check them."""
        parts = {id(part.config): part for part in self.modules() if isinstance(part, PreTrainedModel)}
        named = isinstance(asked, dict)
        spelled_out, without_part = {"": asked.get("", config._attn_implementation) if named else asked}, []
        for key in config.sub_configs:
            sub_config = getattr(config, key)
            wanted = asked.get(key, {}) if named else asked
            part = parts.get(id(sub_config))
            if part is not None:
                if not named and config.model_type == SetokConfig.model_type and _lacks_attention(part, wanted):
                    wanted = part.get_correct_attn_implementation(None)
                spelled_out[key], others = self._spell_out(sub_config, wanted)
                without_part += others
            elif sub_config is not None and wanted:
                without_part.append((sub_config, wanted))
        return spelled_out, without_part


def with_attention_of(config: SetokConfig, make: Callable[..., PreTrainedModel], encoder_config) -> PreTrainedModel:
    """An encoder with the attention of `config`, or with its own default where it lacks that (see above)."""
    asked = encoder_config._attn_implementation
    try:
        return make(encoder_config)
    except ValueError:
        if asked is None or asked != config._attn_implementation:
            raise
        encoder = make(encoder_config, attn_implementation=None)
        if not _lacks_attention(encoder, asked):
            raise
        return encoder


def _lacks_attention(model: PreTrainedModel, implementation: str) -> bool:
    supported = {
        "sdpa": model._supports_sdpa, "flash": model._supports_flash_attn, "flex": model._supports_flex_attn
    }  # fmt: skip
    return any(kind in implementation and not supports for kind, supports in supported.items())
