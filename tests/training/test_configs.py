"""Values of configurations: those that a recipe may name, and what is said of others."""

import pytest

from modeling_setok import SetokConfig, SetokimConfig
from training.configs import config_class_of, new_config, refuse_unknown_values, update_config


def test_update_config_reaches_nested_values_and_no_others():
    config = SetokimConfig()
    update_config(config, {"mask_dice_weight": 2.0, "mask_decoder_config": {"token_noise": 0.3}})
    assert (config.mask_dice_weight, config.mask_decoder_config.token_noise) == (2.0, 0.3)
    assert config.mask_decoder_config.hidden_size == 256
    with pytest.raises(ValueError, match="token_noises is not a value of SetokimMaskDecoderConfig"):
        update_config(config, {"mask_decoder_config": {"token_noises": 0.3}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fixed_tokns": 9}, "fixed_tokns is not a value of SetokConfig. Did you mean 'fixed_tokens'"),
        ({"to_dict": 9}, "to_dict is not a value of SetokConfig"),
        ({"detokenizer_config": {"image_size": 64}}, "image_size is not a value of SetokDetokenizerConfig"),
        ({"detokenizer_config": {"hidden_size": "wide"}}, "hidden_size"),
        ({"hidden_size": 33}, "hidden_size .33. must be a multiple"),
        ({"hidden_size": None}, "hidden_size"),
        ({1: 2}, "1 is not a value of SetokConfig"),
    ],
)
def test_wrong_values_are_refused_of_a_new_model_and_of_one_that_goes_on(values, message):
    with pytest.raises(ValueError, match=message):
        new_config(SetokConfig, values)
    with pytest.raises(ValueError, match=message):
        update_config(SetokConfig(), values)


def test_the_values_of_any_encoder_are_known():
    resnet = {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}
    assert new_config(SetokConfig, {"vision_config": resnet}).vision_config.depths == [1, 1]
    with pytest.raises(ValueError, match="dephts is not a value of ResNetConfig. Did you mean 'depths'"):
        new_config(SetokConfig, {"vision_config": {"model_type": "resnet", "dephts": [1]}})
    with pytest.raises(ValueError, match="vision_config needs a model_type .* Did you mean 'resnet'"):
        new_config(SetokConfig, {"vision_config": {"model_type": "resnets"}})
    for older in ({"rope_theta": 1e4}, {"torch_dtype": "float32"}):
        refuse_unknown_values(config_class_of("text_config", {"model_type": "llama"}), older)


def test_a_part_of_a_model_that_goes_on_stays_what_it_is():
    with pytest.raises(ValueError, match="vision_config is a siglip_vision_model, and cannot become a resnet"):
        update_config(SetokConfig(), {"vision_config": {"model_type": "resnet"}})
    with pytest.raises(ValueError, match="detokenizer_config is a part of SetokConfig: give a mapping"):
        update_config(SetokConfig(), {"detokenizer_config": 5})
    with pytest.raises(ValueError, match="has no text_config"):
        update_config(SetokConfig(), {"text_config": {"model_type": "bert"}})
