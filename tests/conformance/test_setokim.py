"""transformers' common tests over Setokim, with a variable number of visual tokens per image, four and one."""

import contextlib
import functools
import unittest
from unittest import mock

import torch
from parameterized import parameterized
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import (
    TEST_EAGER_MATCHES_SDPA_INFERENCE_PARAMETERIZATION,
    ModelTesterMixin,
    _test_eager_matches_sdpa_inference,
    floats_tensor,
    ids_tensor,
)
from torch import nn

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration, SetokimModel, SetokimModelOutput
from tests.conformance.common import CommonTesterMixin
from tests.conformance.pipelines import LocalPipelineTesterMixin
from tests.setokim_testing import TINY_HEADS, tiny_processor, tiny_setok, tiny_setokim

IMAGE_START, IMAGE, IMAGE_END, MASK = range(1, 5)
FIRST_WORD = 5
BATCH_OF_SDPA_TEST = 7  # of `_test_eager_matches_sdpa_inference`, which adds what lacks without images


def word_ids(shape, vocab_size):
    """Random ids of ordinary text."""
    return ids_tensor(shape, vocab_size - FIRST_WORD) + FIRST_WORD


class SetokimModelTester:
    is_training = True
    with_images = True
    batch_size, seq_length = 3, 10
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 99, 32, 2, 4

    def __init__(self, fixed_tokens: int | None):
        self.setok_values = tiny_setok().config.to_dict() | {"fixed_tokens": fixed_tokens}
        self.image_size = self.setok_values["vision_config"]["image_size"]
        text_config = {
            "model_type": "llama", "vocab_size": self.vocab_size, "hidden_size": self.hidden_size,
            "intermediate_size": 37, "num_hidden_layers": self.num_hidden_layers, "max_position_embeddings": 512,
            "num_attention_heads": self.num_attention_heads, "num_key_value_heads": 2, "pad_token_id": 0,
            "bos_token_id": FIRST_WORD, "eos_token_id": None,
        }  # fmt: skip
        self.values = TINY_HEADS | {
            "vision_config": self.setok_values, "text_config": text_config, "image_start_token_id": IMAGE_START,
            "image_token_id": IMAGE, "image_end_token_id": IMAGE_END, "mask_token_id": MASK,
        }  # fmt: skip
        if fixed_tokens is not None:  # states are of the sequence that the language model reads
            self.encoder_seq_length = self.seq_length + fixed_tokens - 1

    def get_config(self):
        return SetokimConfig(**self.values)

    def prepare_config_and_inputs_for_common(self):
        input_ids = word_ids([self.batch_size, self.seq_length], self.vocab_size)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.with_images:
            input_ids[:, 1:4] = torch.tensor([IMAGE_START, IMAGE, IMAGE_END])
            inputs["pixel_values"] = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), inputs


class SetokimTesterMixin(CommonTesterMixin, ModelTesterMixin, GenerationTesterMixin, LocalPipelineTesterMixin):
    all_model_classes = (SetokimModel, SetokimForConditionalGeneration)
    pipeline_model_mapping = {"image-text-to-text": SetokimForConditionalGeneration}
    additional_model_inputs = ["pixel_values"]
    fixed_tokens = None
    _is_composite = True

    def setUp(self):
        self.model_tester = SetokimModelTester(self.fixed_tokens)
        self.config_tester = ConfigTester(self, SetokimConfig, has_text_modality=False, image_token_id=7)
        self.enterContext(mock.patch("tests.test_modeling_common.ids_tensor", word_ids))  # by it the library means text

    def pipeline_components(self, task):
        processor = tiny_processor()
        return {
            "model": tiny_setokim(processor),
            "processor": processor,
            "tokenizer": processor.tokenizer,
            "image_processor": processor.image_processor,
        }

    def test_config(self):
        self.config_tester.run_common_tests()

    @parameterized.expand(TEST_EAGER_MATCHES_SDPA_INFERENCE_PARAMETERIZATION)
    def test_eager_matches_sdpa_inference(self, *args):
        with mock.patch.object(self.model_tester, "batch_size", BATCH_OF_SDPA_TEST), self.compared_states():
            _test_eager_matches_sdpa_inference(self, *args)

    def compared_states(self):
        return contextlib.nullcontext()

    def _logits_scored_by_loss(self, model, logits):
        """Of these the most and least likely become labels: words, as `<image>` is a label only where an image is."""
        return logits.index_fill(-1, torch.arange(FIRST_WORD), logits.mean())

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        """With SeTok trained: a frozen one stays in eval mode, in which nothing is checkpointed."""
        heads = ("detokenizer", "mask_decoder")
        with (
            mock.patch.object(SetokimModel, "_frozen_parts", ()),
            mock.patch.object(SetokimForConditionalGeneration, "_frozen_parts", heads),
        ):
            super().check_training_gradient_checkpointing(*args, **kwargs)

    def test_generate_from_random_inputs_embeds(self):
        """Of texts alone, as the library means it: an `<image>` without a picture is refused."""
        with mock.patch.object(self.model_tester, "with_images", False):
            super().test_generate_from_random_inputs_embeds()

    def test_generate_continue_from_past_key_values(self):
        """The images are passed again, by which the compact text is compared with the cache; the answer has none."""
        generate, images = SetokimForConditionalGeneration.generate, []

        def generate_with_images(model, *args, **inputs):
            images.append(inputs.get("pixel_values"))
            return generate(model, *args, **inputs | {"pixel_values": images[0], "suppress_tokens": [IMAGE_START]})

        with mock.patch.object(SetokimForConditionalGeneration, "generate", generate_with_images):
            super().test_generate_continue_from_past_key_values()

    def test_past_key_values_format(self):
        """As GIT's: the cache has a position for every visual token."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = SetokimForConditionalGeneration(config).eval()
        cache = model(**inputs, use_cache=True).past_key_values
        length = self.expanded_length(model, inputs)
        self._check_past_key_values_for_generate(self.model_tester.batch_size, cache, length, config)

    def expanded_length(self, model, inputs):
        counts = [len(tokens) for tokens in model.get_image_features(inputs["pixel_values"]).pooler_output]
        return self.model_tester.seq_length - 1 + max(counts)

    def _check_generate_outputs(self, output, config, **kwargs):
        """`sequences` begin with the prompt as it was given, all else with the prompt as it was read."""
        length = output.attentions[0][0].shape[-1]
        inserted = length - self.model_tester.seq_length
        self.assertGreaterEqual(inserted, 0)
        output.sequences = nn.functional.pad(output.sequences, (inserted, 0))
        with mock.patch.object(self.model_tester, "encoder_seq_length", length, create=True):
            super()._check_generate_outputs(output, config, **kwargs)


class SetokimModelTest(SetokimTesterMixin, unittest.TestCase):
    """Only the model knows how many positions its language model reads; rows with fewer have padding on the left."""

    def test_attention_outputs(self):
        self.check_states("attentions", config_value=False)
        self.check_states("attentions", config_value=True)

    def test_hidden_states_output(self):
        self.check_states("hidden_states", config_value=False)
        self.check_states("hidden_states", config_value=True)

    def check_states(self, name, config_value):
        """One for each layer (and the embeddings), over the expanded sequence, asked for in the config or the call."""
        tester = self.model_tester
        for model_class in self.all_model_classes:
            config, inputs = tester.prepare_config_and_inputs_for_common()
            config._attn_implementation = "eager"
            if config_value:
                self._set_subconfig_attributes(config, f"output_{name}", True)
            model = model_class(config).eval()
            with torch.no_grad():
                states = model(**inputs, **{} if config_value else {f"output_{name}": True})[name]
            length = self.expanded_length(model, inputs)
            self.assertGreater(length, tester.seq_length)
            if name == "attentions":
                expected = [(tester.batch_size, tester.num_attention_heads, length, length)] * tester.num_hidden_layers
            else:
                expected = [(tester.batch_size, length, tester.hidden_size)] * (tester.num_hidden_layers + 1)
            self.assertEqual([tuple(state.shape) for state in states], expected)

    def test_batching_equivalence(self):
        with self.compared_states():
            super().test_batching_equivalence()

    @contextlib.contextmanager
    def compared_states(self):
        """Those at the compact positions: where a row lies in the expanded sequence depends on the longest row, and on
        padding each kind of attention has its own values."""
        forward = SetokimModel.forward

        @functools.wraps(forward)
        def compact_forward(model, *args, **kwargs):
            outputs = forward(model, *args, **kwargs)
            compact = {"hidden_states": (outputs.last_hidden_state,), "expanded": None}
            return SetokimModelOutput(**outputs | compact)

        with mock.patch.object(SetokimModel, "forward", compact_forward):
            yield


class SetokimModelFixedTest(SetokimTesterMixin, unittest.TestCase):
    fixed_tokens = 4


class SetokimModelOneTokenTest(SetokimTesterMixin, unittest.TestCase):
    fixed_tokens = 1
