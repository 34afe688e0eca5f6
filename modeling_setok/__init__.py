"""The models of SeTok and Setokim, registered with the Auto classes of transformers.

What an image passes through, file by file: vision_encoder.py (patch embeddings), token_clustering.py (which patches are
one concept), token_merger.py (concept tokens), detokenizer.py (an image again); modeling_setok.py puts them together,
modeling_setokim.py puts them beside a language model.

Letters of shapes, in all docstrings of this folder:

    B       images of a batch; where there is text, its rows, and I the images in all of them
    H, W    height and width of an image in pixels; S, side of the square image that the detokenizer paints
    h, w    rows and columns of the grid of patches; N = h * w, patches; G, side of the detokenizer's grid
    Dv      width of a patch embedding
    C       concept tokens, the largest number in the batch; n_i, those of image i
    D       width of a concept token, and of a visual token, which is one of unit variance
    K       concept names of an image, padded; V, names of the bank, or ids of the vocabulary; P, width of the joint
            space of tokens and names
    T       length of a sequence: of a text, with one placeholder for an image, or of the patches of a batch, packed;
            T', of a text with all visual tokens; L, of a prompt or of a padded row
    M       masks of objects, in all rows; a text has I + M placeholders
    Q, K    queries and keys, where there is attention

hidden is the width of the language model. Alone, no axis: K, the neighbours of Eq. 1; S, the feature scale of the
clustering; M, the concept masks of Algorithm 1.
"""

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
