"""transformers' common tests over the processor."""

import unittest
from unittest import mock

from tests.test_processing_common import MODALITY_INPUT_DATA, ProcessorTesterMixin

from processing import SetokImageProcessor, SetokimProcessor
from tests.setokim_testing import pictures, tiny_processor


class SetokimProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = SetokimProcessor

    @classmethod
    def setUpClass(cls):
        for part in (SetokImageProcessor, SetokimProcessor):  # as the library's own, which bring no code along
            cls.enterClassContext(mock.patch.object(part, "_auto_class", None))
        super().setUpClass()
        paths = [f"{cls.tmpdirname}/{number}.png" for number in range(2)]
        for picture, path in zip(pictures(2), paths, strict=True):
            picture.save(path)
        # In place of the Web's
        cls.enterClassContext(mock.patch.dict(MODALITY_INPUT_DATA, images=paths))
        cls.enterClassContext(mock.patch("tests.test_processing_common.url_to_local_path", lambda url: paths[0]))

    @classmethod
    def _setup_from_components(cls):
        return tiny_processor()

    def prepare_videos_inputs(self, batch_size=None):
        """Setokim reads neither videos nor audio: the arguments are the base class's, and are None."""

    prepare_audio_inputs = prepare_videos_inputs
