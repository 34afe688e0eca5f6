"""transformers' common tests over the configurations of parts; those of the models are in the models' tests."""

import unittest

from tests.test_configuration_common import ConfigTester

from modeling_setok import SetokDetokenizerConfig, SetokimDiffusionConfig, SetokimMaskDecoderConfig


class PartConfigurationTest(unittest.TestCase):
    def test_config_of_detokenizer(self):
        ConfigTester(self, SetokDetokenizerConfig, has_text_modality=False, hidden_size=64).run_common_tests()

    def test_config_of_diffusion_head(self):
        tester = ConfigTester(
            self, SetokimDiffusionConfig, has_text_modality=False, common_properties=["hidden_size"], hidden_size=64
        )
        tester.run_common_tests()

    def test_config_of_mask_decoder(self):
        ConfigTester(self, SetokimMaskDecoderConfig, has_text_modality=False, intermediate_size=64).run_common_tests()
