import pytest
import torch

from modeling_setok import SetokConfig
from training.losses.encoder_pretraining import SetokEncoderPretraining


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision_config = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4, "num_hidden_layers": 1}
    detokenizer_config = {"num_hidden_layers": 1, "grid_size": 4, "decoder_channels": (8, 8)}
    torch.manual_seed(0)
    model = SetokEncoderPretraining(
        SetokConfig(
            vision_config=vision_config | sizes,
            detokenizer_config=detokenizer_config | sizes,
            num_inner_layers=1,
            num_inter_layers=1,
            num_neighbors=3,
            projection_dim=8,
            text_feature_dim=6,
            concept_names=["cat", "dog"],
            **sizes,
        )
    )
    model.set_concepts(["cat", "dog"], torch.nn.functional.normalize(torch.randn(2, 6), dim=1))
    return model


def test_the_loss_is_the_weighted_sum_of_its_parts(model):
    outputs = model(torch.rand(2, 3, 16, 16), torch.tensor([[0, -1], [1, 0]]))
    config = model.config
    expected = config.reconstruction_weight * outputs.reconstruction_loss
    expected = expected + config.contrastive_weight * outputs.contrastive_loss
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(outputs.image_features.norm(dim=1), torch.ones(2))


def test_unknown_inputs_are_refused(model):
    with pytest.raises(TypeError, match="target_pixel_value"):
        model(torch.rand(1, 3, 16, 16), torch.tensor([[0]]), target_pixel_values=torch.rand(1, 3, 16, 16))
