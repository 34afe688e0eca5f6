"""transformers' common tests over SeTok, with a variable and with a fixed number of tokens per image."""

import unittest

from parameterized import parameterized
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import (
    TEST_EAGER_MATCHES_SDPA_INFERENCE_PARAMETERIZATION,
    ModelTesterMixin,
    _test_eager_matches_sdpa_inference,
    floats_tensor,
    ids_tensor,
)
from torch import nn

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel
from processing import SetokImageProcessor
from tests.conformance.common import CommonTesterMixin
from tests.conformance.pipelines import LocalPipelineTesterMixin
from tests.setokim_testing import tiny_setok


class SetokModelTester:
    is_training = True
    batch_size = 3
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 2  # of both encoders and of the tokens
    vocab_size, text_length = 99, 16

    def __init__(self, fixed_tokens: int | None):
        sizes = {
            "hidden_size": self.hidden_size, "intermediate_size": 37, "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
        }  # fmt: skip
        text_config = {
            "model_type": "siglip_text_model", "vocab_size": self.vocab_size, "projection_size": 6,
            "max_position_embeddings": self.text_length, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": None,
        } | sizes  # fmt: skip
        tokens = {"hidden_size": self.hidden_size, "fixed_tokens": fixed_tokens}
        self.setok_values = tiny_setok().config.to_dict() | tokens | {"text_config": text_config}
        encoder = self.get_config().vision_config
        self.image_size, self.seq_length = encoder.image_size, (encoder.image_size // encoder.patch_size) ** 2

    def get_config(self):
        return SetokConfig(**self.setok_values)

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}

    def text_ids(self, *shape):
        return ids_tensor([*shape, self.text_length], self.vocab_size)

    def targets(self):
        size = self.get_config().detokenizer_config.image_size
        return {
            "target_pixel_values": floats_tensor([self.batch_size, 3, size, size]),
            "concept_ids": ids_tensor([self.batch_size, 2], 4),
            "concept_input_ids": self.text_ids(self.batch_size, 2),
        }


class SetokModelTest(CommonTesterMixin, ModelTesterMixin, LocalPipelineTesterMixin, unittest.TestCase):
    all_model_classes = (SetokModel, SetokForPreTraining)
    pipeline_model_mapping = {"image-feature-extraction": SetokModel}
    fixed_tokens = None
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        self.model_tester = SetokModelTester(self.fixed_tokens)
        self.config_tester = ConfigTester(self, SetokConfig, has_text_modality=False, hidden_size=64)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if model_class is SetokForPreTraining:
            inputs_dict |= self.model_tester.targets() if return_labels else {"return_loss": False}
        return inputs_dict

    def _text_features_prepare_config_and_inputs(self):
        return self.model_tester.get_config(), {"input_ids": self.model_tester.text_ids(self.model_tester.batch_size)}

    def pipeline_components(self, task):
        image_processor = SetokImageProcessor(size={"height": 24, "width": 24})
        return {"model": SetokModel(self.model_tester.get_config()).eval(), "image_processor": image_processor}

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """As SigLIP's: patches are embedded by a convolution, and there is no output embedding."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), nn.Module)
            self.assertIsNone(model.get_output_embeddings())

    def test_capture_outputs_decorator(self):
        """With eager attention: under SDPA attentions are refused in a sentence, where the library gives None."""
        self.model_tester.setok_values["attn_implementation"] = "eager"
        super().test_capture_outputs_decorator()

    @parameterized.expand(TEST_EAGER_MATCHES_SDPA_INFERENCE_PARAMETERIZATION)
    def test_eager_matches_sdpa_inference(self, *args):
        if args[0] == "fp32_pad_left_output_attentions":
            self.skipTest("Under SDPA attentions are refused in a sentence, where the library gives None.")
        _test_eager_matches_sdpa_inference(self, *args)

    @unittest.skip("As SigLIP's: it reads no inputs_embeds.")
    def test_inputs_embeds(self):
        pass


class SetokModelFixedTest(SetokModelTest):
    fixed_tokens = 4
