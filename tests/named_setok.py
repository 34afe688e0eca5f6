"""A small SeTok with a concept bank, for tests of what is said about its tokens."""

from collections.abc import Sequence

import torch

from modeling_setok import SetokConfig, SetokForPreTraining


def named_setok(names: Sequence[str], image_size: int, grid_size: int) -> SetokForPreTraining:
    """Of random weights and random text features; it paints pictures of 16 pixels."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision_config = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "image_size": image_size, **small}
    config = SetokConfig(
        vision_config={**vision_config, "patch_size": image_size // grid_size},
        detokenizer_config={"num_hidden_layers": 1, "grid_size": 8, "decoder_channels": [8, 8], **small},
        num_inner_layers=1,
        num_inter_layers=1,
        projection_dim=8,
        text_feature_dim=8,
        concept_names=names,
        **small,
    )
    model = SetokForPreTraining(config)
    model.set_concepts(names, torch.randn(len(names), 8))
    return model
