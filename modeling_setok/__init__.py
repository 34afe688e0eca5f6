"""SeTok's models, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from .configuration_setok import SetokConfig, SetokDetokenizerConfig
from .detokenizer import SetokDetokenizer
from .modeling_setok import (
    SetokForPreTraining,
    SetokForPreTrainingOutput,
    SetokModel,
    SetokModelOutput,
    SetokPreTrainedModel,
)
from .token_clustering import TokenClusters, cluster_tokens, literal_token_masks, soft_token_masks

AutoConfig.register(SetokConfig.model_type, SetokConfig, exist_ok=True)
AutoModel.register(SetokConfig, SetokModel, exist_ok=True)
AutoModelForPreTraining.register(SetokConfig, SetokForPreTraining, exist_ok=True)

__all__ = [
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
