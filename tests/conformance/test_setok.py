"""transformers' common tests over SeTok, with a variable and with a fixed number of tokens per image."""

import copy
import unittest

from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from transformers import SiglipTextConfig

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel
from processing import SetokImageProcessor
from tests.conformance.pipelines import LocalPipelineTesterMixin
from tests.setokim_testing import tiny_setok


class SetokModelTester:
    is_training = True
    batch_size = 3

    def __init__(self, fixed_tokens: int | None):
        self.config = tiny_setok().config
        self.config.fixed_tokens = fixed_tokens
        self.config.text_config = SiglipTextConfig(
            vocab_size=99, hidden_size=32, projection_size=6, intermediate_size=37, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=16,
        )  # fmt: skip
        encoder = self.config.vision_config
        self.image_size, self.seq_length = encoder.image_size, (encoder.image_size // encoder.patch_size) ** 2
        self.hidden_size, self.num_attention_heads = encoder.hidden_size, encoder.num_attention_heads
        self.num_hidden_layers = encoder.num_hidden_layers

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}

    def loss_inputs(self):
        side = self.config.detokenizer_config.image_size
        return {
            "target_pixel_values": floats_tensor([self.batch_size, 3, side, side]),
            "concept_labels": ids_tensor([self.batch_size, 2], 4),
            "concept_input_ids": ids_tensor([self.batch_size, 2, 16], 99),
        }


class SetokModelTest(ModelTesterMixin, LocalPipelineTesterMixin, unittest.TestCase):
    all_model_classes = (SetokModel, SetokForPreTraining)
    pipeline_model_mapping = {"image-feature-extraction": SetokModel}
    fixed_tokens = None
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        self.model_tester = SetokModelTester(self.fixed_tokens)
        self.config_tester = ConfigTester(self, SetokConfig, has_text_modality=False, hidden_size=64)

    def test_config(self):
        self.config_tester.run_common_tests()

    def pipeline_components(self, task):
        image_processor = SetokImageProcessor(size={"height": 24, "width": 24})
        return {"model": SetokModel(self.model_tester.get_config()).eval(), "image_processor": image_processor}

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is SetokForPreTraining:
            inputs_dict |= self.model_tester.loss_inputs()
        return inputs_dict

    def _text_features_prepare_config_and_inputs(self):
        return self.model_tester.get_config(), {"input_ids": ids_tensor([3, 16], 99)}


class SetokModelFixedTest(SetokModelTest):
    fixed_tokens = 4
