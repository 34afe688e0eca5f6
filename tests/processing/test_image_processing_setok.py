"""The image processor: values, masks beside images, the way back, accepted inputs, refused inputs, loading."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import processing.image_processing_setok as module
from modeling_setok import SetokConfig
from processing import SetokImageProcessor


def picture(height: int = 60, width: int = 80, mode: str = "RGB") -> Image.Image:
    """A smooth picture (noise would hide errors of one pixel in the resizing) with all channels different."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - x), np.sin(9 * x * y + 1), 0.5 + x]
    array = np.stack([(127.5 * (1 + wave)).clip(0, 255) for wave in waves], axis=-1).astype(np.uint8)
    return Image.fromarray(array).convert(mode) if mode == "RGBA" else Image.fromarray(array[..., :3]).convert(mode)


def array_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.fixture
def processor() -> SetokImageProcessor:
    return SetokImageProcessor()


@pytest.fixture
def plain() -> SetokImageProcessor:
    """Gives the 8-bit values themselves, at the image's own size."""
    return SetokImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)


# values


def test_defaults_are_the_papers_encoder(processor):
    image = picture()
    pixel_values = processor(image).pixel_values
    expected = SiglipImageProcessorPil(size={"height": 384, "width": 384})(image, return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 384, 384) and pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values, expected, rtol=0, atol=1e-6)


def test_values_are_pils_resize_and_the_normalisation(processor):
    image = picture()
    resized = np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1)
    torch.testing.assert_close(processor(image).pixel_values[0], expected, rtol=0, atol=1e-6)


def test_every_step_can_be_set():
    values = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    values |= {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.25, 0.27]}
    image = picture()
    expected = CLIPImageProcessorPil(**values)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(SetokImageProcessor(**values)(image).pixel_values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(SetokImageProcessor()(image, **values).pixel_values, expected, rtol=0, atol=1e-6)


def test_from_encoder_takes_its_values_but_never_crops():
    encoder = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=2)
    processor = SetokImageProcessor.from_encoder(encoder)
    image = picture()
    expected = encoder(image, size={"height": 32, "width": 32}, do_center_crop=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(image).pixel_values, expected, rtol=0, atol=1e-6)

    siglip = SiglipImageProcessorPil(size={"height": 48, "width": 64})
    expected = siglip(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(
        SetokImageProcessor.from_encoder(siglip)(image).pixel_values, expected, rtol=0, atol=1e-6
    )


def test_from_encoder_needs_a_resolution():
    with pytest.raises(ValueError, match="no fixed resolution"):
        SetokImageProcessor.from_encoder(SiglipImageProcessorPil(size={"max_height": 9, "max_width": 9}))


def test_batch_equals_single(processor):
    images = [picture(30, 50), picture(70, 20), picture(5, 5)]
    batch = processor(images, size=48).pixel_values
    for row, image in zip(batch, images, strict=True):
        torch.testing.assert_close(row, processor(image, size=48).pixel_values[0], rtol=0, atol=1e-6)


# inputs


def as_kinds(image: Image.Image) -> dict:
    array = np.asarray(image)
    channels_first = np.moveaxis(array, -1, 0)
    return {
        "pil": image,
        "numpy": array,
        "numpy channels first": channels_first,
        "numpy int64": array.astype(np.int64),
        "numpy float": array.astype(np.float32) / 255,
        "torch": torch.from_numpy(channels_first.copy()),
        "torch channels last": torch.from_numpy(array.copy()),
        "torch float": torch.from_numpy(channels_first / np.float32(255)),
        "torch with gradient": torch.from_numpy(channels_first / np.float32(255)).requires_grad_(),
        "list": [image],
        "nested list": [[image]],
        "batch array": array[None],
        "batch tensor": torch.from_numpy(channels_first[None].copy()),
    }


@pytest.mark.parametrize("kind", as_kinds(picture()))
def test_all_kinds_of_input_give_the_same(processor, kind):
    image = picture()
    expected = processor(image, size=32).pixel_values
    torch.testing.assert_close(processor(as_kinds(image)[kind], size=32).pixel_values, expected, rtol=0, atol=1e-6)


def test_bfloat16_images_are_read(plain):
    image = torch.linspace(0, 1, 3 * 4 * 5).reshape(3, 4, 5).bfloat16()
    torch.testing.assert_close(plain(image).pixel_values[0], (image.float() * 255).round())


def test_a_path_keeps_transparency(plain, tmp_path):
    image = picture(mode="RGBA")
    image.save(tmp_path / "image.png")
    for path in (tmp_path / "image.png", str(tmp_path / "image.png")):
        torch.testing.assert_close(plain(path).pixel_values, plain(image).pixel_values)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_modes_become_rgb(plain, mode):
    image = picture().convert(mode)
    torch.testing.assert_close(
        plain(image).pixel_values[0].permute(1, 2, 0), torch.tensor(array_of(image)).float(), rtol=0, atol=0
    )


def test_grey_arrays_are_images(plain):
    grey = np.asarray(picture(mode="L"))
    for array in (grey, grey[None], grey[..., None], torch.from_numpy(grey.copy())):
        assert (plain(array).pixel_values == torch.from_numpy(grey.copy())).all()
    assert plain([grey, grey]).pixel_values.shape == (2, 3, 60, 80)


def test_16_bit_grey_is_scaled_not_clipped(plain):
    grey = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    assert plain(Image.fromarray(grey)).pixel_values[0, 0].tolist() == [[0, 100, 255]]


def test_transparency_is_blended_over_white(plain):
    array = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8).repeat(5, axis=0)
    expected = [[10, 255, 204], [20, 255, 224], [30, 255, 244]]  # the last: 0.2 of the colour, 0.8 of white
    for image in (Image.fromarray(array), array, array / np.float32(255), torch.from_numpy(array)):
        assert plain(image).pixel_values[0, :, 0].tolist() == expected


def test_transparent_palette_is_blended_over_white(plain):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.info["transparency"] = 1
    assert plain(image).pixel_values[0, :, 0].tolist() == [[200, 255], [100, 255], [50, 255]]


def test_exif_orientation_is_applied(plain, tmp_path):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    for source in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert (plain(source).pixel_values[0].permute(1, 2, 0).numpy() == turned).all()


def test_input_data_format_settles_ambiguous_shapes(plain):
    array = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    first = plain(array, input_data_format="channels_first").pixel_values[0].numpy()
    last = plain(array, input_data_format="channels_last").pixel_values[0].numpy()
    assert (first == array).all() and (last == np.moveaxis(array, -1, 0)).all()


def test_return_tensors(processor):
    assert isinstance(processor(picture(), return_tensors="np").pixel_values, np.ndarray)
    assert isinstance(processor(picture(), return_tensors=None).pixel_values, list)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 1, 8, 8, 3), np.uint8), "2 or 3 dimensions"),
        (np.full((8, 8, 3), np.nan, np.float32), "must lie in"),
        (np.full((8, 8, 3), 200.0, np.float32), r"floating-point image must lie in \[0, 1\]"),
        (np.full((8, 8, 3), 256), r"integer image must lie in \[0, 255\]"),
        (np.zeros((8, 8, 3), bool), "integers or floating-point numbers, got bool"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (Image.new("F", (8, 8)), "mode 'F' has no defined range"),
        ([], "no image"),
    ],
)
def test_bad_images_are_refused(processor, images, message):
    with pytest.raises(ValueError, match=message):
        processor(images)


def test_without_conversion_only_rgb_is_accepted(processor):
    assert processor(picture(), do_convert_rgb=False).pixel_values.shape == (1, 3, 384, 384)
    with pytest.raises(ValueError, match="do_convert_rgb=True"):
        processor(picture(mode="L"), do_convert_rgb=False)


# masks


def test_label_maps_are_resized_with_nearest(processor):
    labels = np.random.default_rng(0).integers(0, 70_000, (60, 80))
    output = processor(picture(), labels, size={"height": 37, "width": 111})
    expected = Image.fromarray(labels.astype(np.int32)).resize((111, 37), Image.Resampling.NEAREST)
    assert output.segmentation_maps.dtype == torch.int64
    assert output.pixel_values.shape[-2:] == output.segmentation_maps.shape[-2:] == (37, 111)
    assert (output.segmentation_maps[0].numpy() == np.asarray(expected)).all()


@pytest.mark.parametrize("crop", [False, True])
def test_masks_stay_on_their_object(crop):
    """A bright box, resized with nearest as its mask is, is exactly where its mask is."""
    array = np.zeros((61, 83, 3), np.uint8)
    array[13:40, 22:51] = 255
    processor = SetokImageProcessor(resample=Image.Resampling.NEAREST, size={"height": 47, "width": 59})
    settings = {"size": {"shortest_edge": 45}, "crop_size": 33, "do_center_crop": True} if crop else {}
    output = processor(array, array[..., 0] // 255, **settings)
    assert ((output.pixel_values[0, 0] > 0) == (output.segmentation_maps[0] == 1)).all()
    assert output.segmentation_maps.any() and not output.segmentation_maps.all()


def test_stacks_of_masks(processor):
    images = [picture(30, 40), picture(20, 20)]
    masks = np.random.default_rng(0).integers(0, 2, (3, 30, 40))
    pil_masks = [Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (0, 255)]
    first, second = processor(images, [masks, pil_masks], size=24).segmentation_maps
    assert first.dtype == second.dtype == torch.bool
    assert first.shape == (3, 24, 24) and second.shape == (2, 24, 24)
    assert not second[0].any() and second[1].all()
    for stacked, mask in zip(first, masks, strict=True):
        assert (stacked == processor(images[0], mask, size=24).segmentation_maps[0].bool()).all()


def test_segmentation_maps_of_all_kinds(processor, tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, (60, 80)).astype(np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette(list(range(27)))
    assert palette.mode == "P"
    palette.save(tmp_path / "labels.png")
    expected = processor(picture(), labels, size=24).segmentation_maps
    for kind in (Image.fromarray(labels), torch.from_numpy(labels), palette, tmp_path / "labels.png"):
        assert (processor(picture(), kind, size=24).segmentation_maps == expected).all()
    batched = processor([picture(), picture()], np.stack([labels, labels]), size=24).segmentation_maps
    assert batched.shape == (2, 24, 24) and (batched == expected).all()


def test_masks_do_not_change_the_pixel_values(processor):
    with_masks = processor(picture(), np.zeros((60, 80), int), size=24)
    torch.testing.assert_close(with_masks.pixel_values, processor(picture(), size=24).pixel_values, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([np.zeros((60, 80), int)], "2 image.* as many segmentation_maps, got 1"),
        ([np.zeros((60, 80), int), np.zeros((80, 60), int)], r"segmentation_maps\[1\].*60x80.*size of its image"),
        ([np.zeros((60, 80), int), np.zeros((1, 60, 80), int)], "mix label maps"),
        ([np.zeros((60, 80)), np.zeros((60, 80))], "integers or booleans, got float64"),
        ([np.full((1, 60, 80), 7), np.zeros((1, 60, 80), int)], "only 0 and 1, or 0 and 255"),
        ([np.zeros((1, 1, 60, 80), int), np.zeros((60, 80), int)], "label map"),
        ([picture(), picture()], "one channel"),
    ],
)
def test_bad_masks_are_refused(processor, maps, message):
    with pytest.raises(ValueError, match=message):
        processor([picture(), picture()], maps)


# the way back

SETTINGS = [
    {},
    {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.25, 0.27]},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_postprocess_inverts_the_processor(settings):
    processor = SetokImageProcessor(size={"height": 60, "width": 80}, **settings)
    image = picture()
    (back,) = processor.postprocess(processor(image).pixel_values)
    assert back.mode == "RGB" and (np.asarray(back) == np.asarray(image)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_processor_inverts_postprocess_within_half_a_level(processor, dtype):
    pixel_values = (2 * torch.rand(2, 3, 40, 50) - 1).to(dtype)
    back = processor(processor.postprocess(pixel_values), size={"height": 40, "width": 50}).pixel_values
    assert (back - pixel_values.float()).abs().max() / 2 <= 0.5 / 255 + 1e-6  # half: [-1, 1] is twice [0, 1]


def test_bfloat16_pixel_values_lose_at_most_one_level(processor):
    image = picture(384, 384)
    (back,) = processor.postprocess(processor(image).pixel_values.bfloat16())
    assert np.abs(np.asarray(back).astype(int) - np.asarray(image)).max() <= 1


def test_postprocess_clamps_and_takes_one_image_or_arrays(processor):
    pixel_values = torch.stack([torch.full((2, 2), value) for value in (-5.0, 0.2, 5.0)])
    for values in (pixel_values, pixel_values.numpy(), pixel_values.requires_grad_()):
        (image,) = processor.postprocess(values)
        assert image.getpixel((0, 0)) == (0, 153, 255)


def test_postprocess_resizes_to_height_and_width(processor):
    images = [picture(60, 80), picture(50, 30)]
    sizes = [(60, 80), (50, 30)]
    pixel_values = processor(images).pixel_values
    for target_sizes in (sizes, torch.tensor(sizes)):
        back = processor.postprocess(pixel_values, target_sizes)
        assert [image.size for image in back] == [(80, 60), (30, 50)]
    difference = np.abs(np.asarray(back[0]).astype(int) - np.asarray(images[0]))
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("pixel_values", "sizes", "message"),
    [
        (torch.zeros(1, 1, 4, 4), None, r"\(B, 3, H, W\).*got \(1, 1, 4, 4\)"),
        (torch.zeros(4, 4), None, "must have the shape"),
        (torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), torch.nan)]), None, r"NaN or infinity in .*\[1\]"),
        (torch.full((1, 3, 4, 4), torch.inf), None, r"NaN or infinity in .*\[0\]"),
        (torch.zeros(2, 3, 4, 4), [(4, 4)], "2 images need as many"),
    ],
)
def test_postprocess_refuses(processor, pixel_values, sizes, message):
    with pytest.raises(ValueError, match=message):
        processor.postprocess(pixel_values, sizes)


# saving and loading


def test_save_and_load(tmp_path):
    processor = SetokImageProcessor(size={"height": 20, "width": 30}, image_std=[0.1, 0.2, 0.3], resample=2)
    processor.save_pretrained(tmp_path)
    for loaded in (SetokImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SetokImageProcessor and loaded.to_dict() == processor.to_dict()
        torch.testing.assert_close(loaded(picture()).pixel_values, processor(picture()).pixel_values, rtol=0, atol=0)


def test_auto_class_finds_the_processor_by_the_models_config(tmp_path):
    SetokImageProcessor().save_pretrained(tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"image_processor_type": "SetokImageProcessor",', ""))
    SetokConfig().save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is SetokImageProcessor


def test_remote_code_works_without_the_package(tmp_path):
    """What `register_for_auto_class` and `save_pretrained` write loads where the project is not installed."""
    script = """
from transformers import AutoImageProcessor
import numpy, sys
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
print(processor(numpy.full((4, 4, 3), 255, numpy.uint8)).pixel_values.sum().item())
"""
    Remote = type("SetokImageProcessor", (SetokImageProcessor,), {"__module__": module.__name__})
    Remote.register_for_auto_class()
    Remote(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "model")
    run = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path / "model")],
        cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == 3 * 8 * 8
    files = {path.name for path in Path(tmp_path / "model").glob("*.py")}
    assert files == {"image_processing_setok.py", "picture_geometry.py"}


# files and settings that are broken


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_empty_pictures(size):
    with pytest.raises(ValueError, match=r"image is empty: its \(width, height\) is"):
        SetokImageProcessor()(Image.new("RGB", size))


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.png", str(tmp_path / "none.png")):
        with pytest.raises(ValueError, match="none.png"):
            SetokImageProcessor()(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF"])
def test_broken_files_are_named(tmp_path, kind):
    whole = encoded(Image.effect_noise((64, 48), 80).convert("RGB"), kind)
    for number, part in enumerate((whole[: len(whole) // 2], whole[:30], b"", b"no picture")):
        path = tmp_path / f"{kind}{number}.bin"
        path.write_bytes(part)
        for given in (path, str(path)):
            with pytest.raises(ValueError, match=f"{kind}{number}.bin.* cannot be read"):
                SetokImageProcessor()(given)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0MM", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"nonsense", b"MM\0*\0\0"])
def test_a_sound_picture_with_broken_exif_is_read(exif):
    image = Image.effect_noise((20, 10), 80).convert("RGB")
    picture = Image.open(io.BytesIO(encoded(image, "PNG", exif=exif)))
    processor = SetokImageProcessor(size={"height": 8, "width": 8})
    assert torch.equal(processor(picture)["pixel_values"], processor(image)["pixel_values"])


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_that_of_pillow(orientation):
    image = Image.effect_noise((9, 6), 80).convert("RGB")
    image.getexif()[0x0112] = orientation
    processor = SetokImageProcessor(do_resize=False)
    upright = ImageOps.exif_transpose(image)
    assert torch.equal(processor(image)["pixel_values"], processor(upright)["pixel_values"])


@pytest.mark.parametrize(
    "settings",
    [
        {"rescale_factor": math.nan}, {"rescale_factor": math.inf}, {"rescale_factor": 0.0},
        {"image_mean": [0.5, math.nan, 0.5]}, {"image_std": [0.5, 0.0, 0.5]}, {"image_std": math.inf},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_give_no_pixels_are_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must"):
        SetokImageProcessor()(Image.new("RGB", (8, 8)), **settings)
    with pytest.raises(ValueError, match=f"{name} must"):
        SetokImageProcessor(**settings).postprocess(torch.zeros(3, 8, 8))
