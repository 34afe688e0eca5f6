"""What outputs of this project need in common tests: they hold more kinds of things than the library's."""

import torch


class SameOutputsTesterMixin:
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


def _tensors(value) -> list[torch.Tensor]:
    """All tensors of nested outputs, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [t for item in value for t in _tensors(item)] if hasattr(value, "__iter__") else []
