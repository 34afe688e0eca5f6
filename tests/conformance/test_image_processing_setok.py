"""transformers' common tests over the image processor."""

import unittest

import numpy as np
from tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from processing import SetokImageProcessor


class SetokImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, size={"height": 18, "width": 18}, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": SetokImageProcessor}


class SetokImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SetokImageProcessingTester

    def test_call_numpy_4_channels(self):
        """Other channels than the encoder's three are no pixel values for it: they are converted or refused."""
        image = np.zeros((20, 20, 4), np.uint8)
        self.assertEqual(SetokImageProcessor()(image).pixel_values.shape[1], 3)
        with self.assertRaisesRegex(ValueError, "needs RGB"):
            SetokImageProcessor()(image, do_convert_rgb=False)

    @unittest.skip("The library wants it of its own models; SeTok's pixels are Pillow's, the same on every machine.")
    def test_new_models_require_torchvision_backend(self):
        pass
