"""The models of SeTok and Setokim, registered with the Auto classes of transformers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from .concept_masks import literal_token_masks, soft_token_masks
from .configuration_setok import SetokConfig, SetokDetokenizerConfig
from .configuration_setokim import SetokimConfig, SetokimDiffusionConfig, SetokimMaskDecoderConfig
from .density_peaks import TokenClusters, cluster_tokens
from .detokenizer import SetokDetokenizer
from .diffusion_head import DiffusionHead
from .generation_setokim import SetokimGenerateOutput
from .mask_decoder import MaskDecoder
from .modeling_setok import (
    SetokForPreTraining,
    SetokForPreTrainingOutput,
    SetokModel,
    SetokModelOutput,
    SetokPreTrainedModel,
)
from .modeling_setokim import (
    SetokimCausalLMOutput,
    SetokimForConditionalGeneration,
    SetokimImageFeatures,
    SetokimModel,
    SetokimModelOutput,
    SetokimPreTrainedModel,
)

AutoConfig.register(SetokConfig.model_type, SetokConfig, exist_ok=True)
AutoModel.register(SetokConfig, SetokModel, exist_ok=True)
AutoModelForPreTraining.register(SetokConfig, SetokForPreTraining, exist_ok=True)
AutoConfig.register(SetokimConfig.model_type, SetokimConfig, exist_ok=True)
AutoModel.register(SetokimConfig, SetokimModel, exist_ok=True)
for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(SetokimConfig, SetokimForConditionalGeneration, exist_ok=True)
for names in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
    names[SetokimConfig.model_type] = SetokimForConditionalGeneration.__name__  # `transformers serve` looks there

# Saved models bring this code along, so that `trust_remote_code=True` loads them from the Hub without this package.
for config_class in (SetokConfig, SetokimConfig):
    config_class.register_for_auto_class()
SetokModel.register_for_auto_class("AutoModel")
SetokForPreTraining.register_for_auto_class("AutoModelForPreTraining")
SetokimModel.register_for_auto_class("AutoModel")
SetokimForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = [
    "DiffusionHead",
    "MaskDecoder",
    "SetokimCausalLMOutput",
    "SetokimConfig",
    "SetokimDiffusionConfig",
    "SetokimForConditionalGeneration",
    "SetokimGenerateOutput",
    "SetokimImageFeatures",
    "SetokimMaskDecoderConfig",
    "SetokimModel",
    "SetokimModelOutput",
    "SetokimPreTrainedModel",
    "SetokConfig",
    "SetokDetokenizer",
    "SetokDetokenizerConfig",
    "SetokForPreTraining",
    "SetokForPreTrainingOutput",
    "SetokModel",
    "SetokModelOutput",
    "SetokPreTrainedModel",
    "TokenClusters",
    "cluster_tokens",
    "literal_token_masks",
    "soft_token_masks",
]
