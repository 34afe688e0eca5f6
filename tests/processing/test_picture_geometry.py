"""Pictures of any size and aspect ratio: resized sizes, padding, masks of the same geometry, and the model behind."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from processing import SetokImageProcessor
from processing.picture_geometry import resized_size


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in [(60, 80), (50, 20)]]


@pytest.mark.parametrize(
    ("picture", "size", "divisor", "expected"),
    [
        ((60, 80), {"height": 30, "width": 30}, None, (30, 30)),
        ((60, 80), {"height": 30, "width": 30}, 14, (28, 28)),
        ((60, 80), {"shortest_edge": 30}, None, (30, 40)),
        ((80, 60), {"shortest_edge": 30, "longest_edge": 50}, None, (40, 30)),
        ((300, 60), {"shortest_edge": 30, "longest_edge": 50}, None, (50, 10)),
        ((600, 800), {"longest_edge": 40}, None, (30, 40)),
        ((6, 8), {"longest_edge": 40}, None, (30, 40)),  # small pictures are enlarged
        ((60, 80), {"longest_edge": 40}, 14, (28, 28)),  # 30 and 40 are 2.1 and 2.9 patches; 3 would exceed 40
        ((60, 80), {"shortest_edge": 30}, 14, (28, 42)),
        ((1, 1000), {"longest_edge": 40}, None, (1, 40)),
        ((1, 1000), {"longest_edge": 42}, 14, (14, 42)),  # at least one patch
        ((768, 1024), {"longest_edge": 1024}, 14, (770, 1022)),
        ((9, 9), {"longest_edge": 5}, 14, (14, 14)),
    ],
)
def test_resized_size(picture, size, divisor, expected):
    assert resized_size(*picture, SizeDict(**size), divisor) == expected


def test_shortest_edge_is_that_of_other_processors():
    values = {"size": {"shortest_edge": 31}, "do_center_crop": True, "crop_size": {"height": 17, "width": 17}}
    for picture in pictures():
        expected = CLIPImageProcessorPil(**values)(picture, return_tensors="pt").pixel_values
        got = SetokImageProcessor(**values, image_mean=[0.48145466, 0.4578275, 0.40821073],
                                  image_std=[0.26862954, 0.26130258, 0.27577711])(picture)  # fmt: skip
        torch.testing.assert_close(got.pixel_values, expected, rtol=0, atol=1e-5)
        assert "pixel_mask" not in got


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 50, "longest_edge": 30}}, "shortest_edge of 50 above its longest_edge of 30"),
        ({"size": {"min_pixels": 50, "max_pixels": 300}}, "size must be .*longest_edge.*min_pixels"),
        ({"size_divisor": 0}, "size_divisor must be a whole number of at least 1.*got 0"),
        ({"size_divisor": 1.5}, "size_divisor must be a whole number of at least 1.*got 1.5"),
    ],
)
def test_other_sizes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SetokImageProcessor(**settings)(pictures())


def test_pictures_are_padded_to_the_largest():
    processor = SetokImageProcessor(size={"longest_edge": 40}, size_divisor=4)
    images = pictures()
    batch = processor(images)
    assert batch.pixel_values.shape == (2, 3, 40, 40) and batch.pixel_mask.dtype == torch.int64
    for image, values, mask, (height, width) in zip(
        images, batch.pixel_values, batch.pixel_mask, [(32, 40), (40, 16)], strict=True
    ):
        assert mask.sum() == height * width and mask[:height, :width].all()
        alone = processor(image)
        assert alone.pixel_values.shape == (1, 3, height, width) and alone.pixel_mask.all()
        assert torch.equal(values[:, :height, :width], alone.pixel_values[0]) and (values[:, mask == 0] == 0).all()
        resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        torch.testing.assert_close(
            alone.pixel_values[0], torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("settings", [{}, {"size": 24}, {"size_divisor": 14}])
def test_fixed_sizes_have_no_pixel_mask(settings):
    assert set(SetokImageProcessor()(pictures(), **settings)) == {"pixel_values"}


def test_pictures_that_are_not_resized_are_padded():
    batch = SetokImageProcessor(do_resize=False)(pictures())
    assert batch.pixel_values.shape == (2, 3, 60, 80)
    assert batch.pixel_mask.sum((1, 2)).tolist() == [60 * 80, 50 * 20]


def test_masks_have_the_geometry_of_their_pictures():
    """A bright box, resized with nearest as its mask is, is exactly where its mask is; padding is no label."""
    arrays = [np.zeros((61, 83, 3), np.uint8), np.zeros((90, 41, 3), np.uint8)]
    for array in arrays:
        array[13:40, 12:31] = 255
    processor = SetokImageProcessor(size={"longest_edge": 64}, size_divisor=8, resample=Image.Resampling.NEAREST)
    batch = processor(arrays, [array[..., 0] // 255 for array in arrays])
    assert batch.segmentation_maps.shape == batch.pixel_mask.shape == (2, 64, 64)
    assert torch.equal(batch.segmentation_maps == -1, batch.pixel_mask == 0)
    assert torch.equal(batch.segmentation_maps == 1, batch.pixel_values[:, 0] > 0)
    stacks = processor(arrays, [array[None, ..., 0] for array in arrays]).segmentation_maps
    assert all(
        torch.equal(stack[0], labels == 1) for stack, labels in zip(stacks, batch.segmentation_maps, strict=True)
    )


def test_from_encoder_can_keep_the_aspect_ratio():
    encoder = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=2)
    processor = SetokImageProcessor.from_encoder(encoder, size={"longest_edge": 32}, size_divisor=8)
    assert (processor.resample, processor.image_mean) == (2, encoder.image_mean)
    assert processor(pictures()[0]).pixel_values.shape == (1, 3, 24, 32)


def test_settings_are_saved(tmp_path):
    SetokImageProcessor(size={"shortest_edge": 24, "longest_edge": 48}, size_divisor=8).save_pretrained(tmp_path)
    batch = SetokImageProcessor.from_pretrained(tmp_path)(pictures())
    assert batch.pixel_values.shape == (2, 3, 48, 32)  # 24 x 32 and 48 x 16


def test_postprocess_gives_the_original_sizes():
    batch = SetokImageProcessor(size={"longest_edge": 80})(pictures()[:1])
    (back,) = SetokImageProcessor().postprocess(batch.pixel_values, [(60, 80)])
    assert np.array_equal(np.asarray(back), np.asarray(pictures()[0]))
