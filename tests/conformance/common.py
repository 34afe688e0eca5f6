"""Common tests of the library in forms that fit models of this project as well."""

import tempfile

import torch
from transformers import PreTrainedModel

# Of any size that fits the testers; the library starts its weights in one way only, other than SigLIP's
VIT = {
    "model_type": "vit", "image_size": 24, "patch_size": 4, "hidden_size": 32, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


class CommonTesterMixin:
    test_can_init_all_missing_weights_before_2023 = True  # asked of all models but the library's older ones

    def test_can_init_all_missing_weights(self):
        """With another encoder: SigLIP's linear layers start otherwise in a loaded model of which they are a part."""
        self.model_tester.setok_values |= {"vision_config": VIT, "text_config": None}
        super().test_can_init_all_missing_weights()

    def test_model_outputs_equivalence(self):
        """The library's subtracts all tensors, which booleans refuse: here tuple and dictionary are compared alone."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            inputs = self._prepare_for_class(inputs, model_class)
            with torch.no_grad():
                as_tuple = model(**inputs, return_dict=False, output_hidden_states=True)
                as_dict = model(**inputs, return_dict=True, output_hidden_states=True)
            self.assertIsInstance(as_tuple, tuple)
            torch.testing.assert_close(_tensors(as_tuple), _tensors(as_dict))

    def test_sdpa_can_dispatch_composite_models(self):
        """The library's knows parts by its own names for them (Janus has its own test, too): here every part counts."""
        for model_class in self.all_model_classes:
            config, _ = self.model_tester.prepare_config_and_inputs_for_common()
            with tempfile.TemporaryDirectory() as folder:
                model_class(config).save_pretrained(folder)
                for attention in ("sdpa", "eager"):
                    model = model_class.from_pretrained(folder, attn_implementation=attention)
                    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
                    self.assertGreater(len(parts), 1)
                    self.assertEqual({part.config._attn_implementation for part in parts}, {attention})


def _tensors(value) -> list[torch.Tensor]:
    """All tensors of nested outputs, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [t for item in value for t in _tensors(item)] if hasattr(value, "__iter__") else []
