"""transformers' common tests over Setokim, with a variable number of visual tokens per image, four and one."""

import copy
import functools
import unittest

import torch
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration, SetokimModel
from tests.conformance.pipelines import LocalPipelineTesterMixin
from tests.setokim_testing import tiny_processor, tiny_setokim

tiny_processor = functools.cache(tiny_processor)


class SetokimModelTester:
    is_training = True
    batch_size = 3
    seq_length = 10

    def __init__(self, fixed_tokens: int | None):
        self.config = tiny_setokim(tiny_processor()).config
        self.config.vision_config.fixed_tokens = fixed_tokens
        text = self.config.text_config
        self.hidden_size, self.num_hidden_layers = text.hidden_size, text.num_hidden_layers
        self.num_attention_heads, self.vocab_size = text.num_attention_heads, text.vocab_size
        if fixed_tokens is not None:  # states are of the sequence that the language model reads
            self.encoder_seq_length = self.seq_length + fixed_tokens - 1

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        side = config.vision_config.vision_config.image_size
        input_ids = ids_tensor([self.batch_size, self.seq_length], config.image_start_token_id)  # below: ordinary ones
        image = [config.image_start_token_id, config.image_token_id, config.image_end_token_id]
        input_ids[:, 1:4] = torch.tensor(image)
        return config, {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": floats_tensor([self.batch_size, 3, side, side]),
        }


class SetokimModelTest(ModelTesterMixin, GenerationTesterMixin, LocalPipelineTesterMixin, unittest.TestCase):
    all_model_classes = (SetokimModel, SetokimForConditionalGeneration)
    pipeline_model_mapping = {
        "image-text-to-text": SetokimForConditionalGeneration,
        "any-to-any": SetokimForConditionalGeneration,
    }
    fixed_tokens = None
    _is_composite = True

    def setUp(self):
        self.model_tester = SetokimModelTester(self.fixed_tokens)
        self.config_tester = ConfigTester(self, SetokimConfig, has_text_modality=False, image_token_id=7)

    def test_config(self):
        self.config_tester.run_common_tests()

    def pipeline_components(self, task):
        processor = tiny_processor()
        return {
            "model": SetokimForConditionalGeneration(self.model_tester.get_config()).eval(),
            "processor": processor,
            "tokenizer": processor.tokenizer,
            "image_processor": processor.image_processor,
        }


class SetokimModelFixedTest(SetokimModelTest):
    fixed_tokens = 4


class SetokimModelOneTokenTest(SetokimModelTest):
    fixed_tokens = 1
