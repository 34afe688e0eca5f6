"""Images (and masks beside them) to pixel values, and pixel values back to images."""

import math
import os
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType

from .picture_geometry import is_fixed, pad_to_largest, resize_nearest, resized_size

# How an image of each EXIF orientation is turned, so that it stands as its camera saw it
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SetokImageProcessorKwargs(ImagesKwargs, total=False):
    size_divisor: int | None


class SetokImageProcessor(PilBackend):
    """
    Image processor of SeTok. The defaults are those of the paper's encoder, SigLIP-SO400M-patch14-384: the whole
    image is resized to 384x384 (bicubic, the aspect ratio is not kept), scaled to [0, 1] and normalised to [-1, 1].
    `SetokImageProcessor.from_encoder` takes the values of any other encoder.

    With a `size` of `shortest_edge`, `longest_edge` or both (the shortest gets its length unless the longest would
    exceed its own) the aspect ratio is kept. `size_divisor`, the encoder's patch size, then rounds height and width to
    its multiples, at least one: a patch that is cut off is seen by no encoder. Images are padded with 0 at the bottom
    and right to the largest of the batch.

    `processor(images, segmentation_maps=None, return_tensors="pt")` returns

    - `pixel_values`: (B, 3, H, W) float32;
    - `pixel_mask`: (B, H, W) int64, 1 on the image and 0 on padding; only where sizes are not fixed, by a `size` of
      `height` and `width` or by `do_center_crop`;
    - `segmentation_maps`, if given: resized with nearest neighbour, so that each mask pixel stays on its image pixel.
      Label maps give one (B, H, W) int64 array, -1 on padding; stacks of binary masks give a list with one (M_i, H, W)
      bool array per image, since M_i differs.

    `images` is one image or any list or 4-D batch of them; each a PIL image of any mode, a numpy array or torch tensor
    (H, W), (H, W, C) or (C, H, W), a path or a URL. Integer arrays hold 0 to 255, floating-point arrays 0 to 1 (they
    become 8 bit like every other image, then `do_rescale` applies to them too). Grey is repeated over the channels,
    palettes are resolved, transparency is blended over white, 16-bit grey is reduced to 8 bit, and the EXIF
    orientation is applied (broken EXIF does not count).

    `segmentation_maps` is nested as `images` is: for one image one item, for a batch one item per image. An item is a
    label map (H, W) of integers (a PIL image, array, tensor or path), or a stack of binary masks: an (M, H, W) array
    or a list of (H, W) masks, of values {0, 1} or {0, 255}. It has the size of its image as shown, that is after the
    EXIF orientation.

    Raises `ValueError` for files that are broken or missing, empty images, NaN, values out of range, a number of
    channels other than 1, 3 or 4, masks that do not fit their image, and a scale, mean or std that is not finite.
    """

    size = {"height": 384, "width": 384}
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    size_divisor = None
    valid_kwargs = SetokImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]

    @classmethod
    def from_encoder(cls, image_processor: BaseImageProcessor, **settings: Any) -> "SetokImageProcessor":
        """
        Take over resolution, resampling, scale, mean and std of an encoder's own image processor (CLIP, DINOv2, ...).
        Where the encoder crops, the whole image is resized to the size of the crop instead: tokens, masks and
        reconstruction shall cover all of it.

        `settings` take the place of the encoder's: `size={"longest_edge": 518}, size_divisor=14` keeps the aspect
        ratio of images for an encoder with patches of 14 pixels.
        """
        names = ["resample", "rescale_factor", "image_mean", "image_std", "do_resize", "do_rescale", "do_normalize"]
        values = {name: getattr(image_processor, name) for name in names}
        if "size" in settings:
            return cls(**values | settings)
        size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
        if not (size and (size.shortest_edge or (size.height and size.width))):
            raise ValueError(
                f"{type(image_processor).__name__} has no fixed resolution (size={size}); "
                "construct SetokImageProcessor(size={'height': ..., 'width': ...}, ...) with the values of your choice."
            )
        values["size"] = {"height": size.height or size.shortest_edge, "width": size.width or size.shortest_edge}
        return cls(**values | settings)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: Any = None,
        return_tensors: str | TensorType | None = "pt",
        **kwargs,
    ) -> BatchFeature:
        """What calling the processor does; see the class for the arguments. Keywords override its settings."""
        return super().preprocess(
            images,
            image_like_kwargs={"segmentation_maps": segmentation_maps},
            return_tensors=return_tensors,
            **kwargs,
        )

    def postprocess(
        self,
        pixel_values: torch.Tensor | np.ndarray,
        target_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
    ) -> list[Image.Image]:
        """
        Turn pixel values back into images: normalisation and scale are inverted, values clamped and rounded.

        Args:
            pixel_values: (B, 3, H, W) or (3, H, W), any floating dtype, any device.
            target_sizes: (height, width) of each image, B pairs, e.g. the original sizes; no resizing without it.

        Returns:
            B RGB images. Without resizing, processing them again gives `pixel_values` within half a level of 255.

        Raises:
            ValueError: NaN or infinity, a number of channels other than 3, or not one target size per image.
        """
        pixels = torch.as_tensor(pixel_values).detach().to("cpu", torch.float32)
        shape = tuple(pixels.shape)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixel_values must have the shape (B, 3, H, W) or (3, H, W), got {shape}.")
        broken = (~pixels.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if broken:
            raise ValueError(f"pixel_values contain NaN or infinity in image(s) {broken} of the batch.")
        if target_sizes is not None and len(target_sizes) != len(pixels):
            raise ValueError(
                f"{len(pixels)} images need as many (height, width) target sizes, got {len(target_sizes)}."
            )

        self._check_scale(**{name: getattr(self, name) for name in ("rescale_factor", "image_mean", "image_std")})
        if self.do_normalize:
            mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.image_mean, self.image_std))
            pixels = pixels * std + mean
        if self.do_rescale:
            pixels = pixels / self.rescale_factor
        pixels = pixels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

        images = [Image.fromarray(image) for image in pixels]
        if target_sizes is not None:
            images = [
                image.resize((int(width), int(height)), self.resample)
                for image, (height, width) in zip(images, target_sizes, strict=True)
            ]
        return images

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        source = image_url_or_urls
        if isinstance(source, os.PathLike):
            source = os.fspath(source)
        try:
            if isinstance(source, str) and os.path.isfile(source):
                # The library's loader drops transparency, palette and label values here; process_image needs them.
                return Image.open(source)
            return super().fetch_images(source)
        except (
            RuntimeError,
            SyntaxError,
            ValueError,
            OSError,
            Image.DecompressionBombError,
        ) as error:  # of broken bytes
            name = f" {source[:200]!r}" if isinstance(source, str) else ""
            raise ValueError(f"The image{name} cannot be read: {error}") from error

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = True,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One image of any accepted kind as (3, H, W) uint8."""
        if isinstance(image, Image.Image):
            image = _upright(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(
                    f"An image of mode {image.mode!r} has no defined range; scale it to 8 bit (mode 'L', 'RGB') first."
                )
        else:
            image = _pil_from_array(_to_numpy(image), input_data_format)

        if do_convert_rgb:
            return np.moveaxis(convert_to_rgb(image, return_numpy=True), -1, 0)
        if image.mode != "RGB":
            raise ValueError(f"The encoder needs RGB and the image has mode {image.mode!r}; set do_convert_rgb=True.")
        return np.moveaxis(np.array(image), -1, 0)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Any nesting of images as a flat list; unlike the library's version (H, W) arrays are images, too."""
        if isinstance(images, (list, tuple)):
            return [image for item in images for image in self._prepare_images_structure(item)]
        image = self.fetch_images(images)
        if isinstance(image, Image.Image) or image.ndim in (2, 3):
            return [image]
        if image.ndim == 4:
            return list(image)
        raise ValueError(f"An image array has 2 or 3 dimensions and a batch 4, got the shape {tuple(image.shape)}.")

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: Any,
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        self._check_scale(**{name: kwargs[name] for name in ("rescale_factor", "image_mean", "image_std")})
        pixels = self._prepare_image_like_inputs(images, **kwargs)
        if not pixels:
            raise ValueError("There is no image in `images`.")
        if segmentation_maps is None:
            maps = [np.empty((0, *image.shape[-2:]), bool) for image in pixels]  # each image with a stack of no masks
        else:
            is_batch = isinstance(images, (list, tuple)) or getattr(images, "ndim", None) == 4
            maps = self._prepare_segmentation_maps(segmentation_maps if is_batch else [segmentation_maps], pixels)

        pixels, maps = zip(*(self._transform(*pair, **kwargs) for pair in zip(pixels, maps, strict=True)), strict=True)
        data = {}
        if not (kwargs["do_center_crop"] or (kwargs["do_resize"] and is_fixed(kwargs["size"]))):
            data["pixel_mask"] = pad_to_largest([np.ones(image.shape[-2:], np.int64) for image in pixels])
        pixels, maps = pad_to_largest(pixels), pad_to_largest(maps, value=-1 if maps[0].ndim == 2 else False)
        batch = BatchFeature({"pixel_values": pixels} | data, tensor_type=return_tensors)
        if segmentation_maps is None:
            return batch
        if maps[0].ndim == 2:
            batch["segmentation_maps"] = list(maps)
            return batch.convert_to_tensors(return_tensors)
        # Stacks of different images have different numbers of masks and are converted one by one.
        batch["segmentation_maps"] = [BatchFeature({"masks": m}, tensor_type=return_tensors)["masks"] for m in maps]
        return batch

    def _check_scale(self, **settings: Any) -> None:
        """Raises unless the values by which pixels are scaled, each a number or several, are finite, and not 0 where
        they are divided by."""
        for name, setting in settings.items():
            values = setting if isinstance(setting, (list, tuple)) else [setting]
            for value in values:
                if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
                    raise ValueError(f"{name} must be finite, got {setting!r}.")
            if name != "image_mean" and 0 in values:
                raise ValueError(f"{name} must not be 0, got {setting!r}.")

    def _prepare_segmentation_maps(self, segmentation_maps: Any, images: list[np.ndarray]) -> list[np.ndarray]:
        """One (H, W) int64 label map, or one (M, H, W) bool stack, for each of the (3, H, W) images."""
        if len(segmentation_maps) != len(images):
            raise ValueError(f"{len(images)} image(s) need as many segmentation_maps, got {len(segmentation_maps)}.")
        maps = []
        for index, (item, image) in enumerate(zip(segmentation_maps, images, strict=True)):
            name = f"segmentation_maps[{index}]"
            masks = [self._read_mask(mask, name) for mask in (item if isinstance(item, (list, tuple)) else [item])]
            for mask in masks:
                if mask.shape[-2:] != image.shape[-2:]:
                    raise ValueError(
                        f"{name} has the shape {mask.shape} and its image is {image.shape[-2]}x{image.shape[-1]} "
                        "(height x width, as shown); a mask must have the size of its image."
                    )
            labels = np.stack(masks) if isinstance(item, (list, tuple)) else masks[0]
            if labels.ndim == 3:
                values = np.unique(labels)
                if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
                    raise ValueError(f"{name} is a stack of masks and must hold only 0 and 1, or 0 and 255.")
                maps.append(labels != 0)
            elif labels.ndim == 2:
                maps.append(labels.astype(np.int64))
            else:
                raise ValueError(
                    f"{name} must be a label map (H, W) or a stack of masks (M, H, W), got {labels.shape}."
                )
        if len({labels.ndim for labels in maps}) > 1:
            raise ValueError("segmentation_maps mix label maps (H, W) and stacks of masks (M, H, W); give one kind.")
        return maps

    def _read_mask(self, mask: Any, name: str) -> np.ndarray:
        """A label map, a mask or a stack of masks of any accepted kind as an array; `name` is for errors."""
        mask = self.fetch_images(mask)
        if isinstance(mask, Image.Image):
            if len(mask.getbands()) != 1:
                raise ValueError(f"{name} must have one channel, got an image of mode {mask.mode!r}.")
            mask = np.asarray(_upright(mask))
        mask = _to_numpy(mask)
        if not (np.issubdtype(mask.dtype, np.integer) or mask.dtype == bool):
            raise ValueError(f"{name} must hold integers or booleans, got {mask.dtype}.")
        return mask

    def _transform(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        *,
        do_resize: bool,
        size: SizeDict,
        size_divisor: int | None,
        resample: PILImageResampling,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        **kwargs,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image (3, H, W) uint8 to float32 pixel values; its label map or masks (..., H, W) get the same geometry."""
        if do_resize:
            height, width = resized_size(*image.shape[-2:], size, size_divisor)
            image = self.resize(image, SizeDict(height=height, width=width), resample)
            labels = resize_nearest(labels, height, width)
        if do_center_crop:
            image, labels = self.center_crop(image, crop_size), self.center_crop(labels, crop_size)
        if do_rescale:
            image = self.rescale(image, rescale_factor)
        if do_normalize:
            image = self.normalize(image, image_mean, image_std)
        return image.astype(np.float32), labels


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says, if that can be read.

    Raises:
        ValueError: it is empty or its bytes are broken.
    """
    if 0 in image.size:
        raise ValueError(f"The image is empty: its (width, height) is {image.size}.")
    try:
        image.load()
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"The image {getattr(image, 'filename', '')!r} cannot be read: {error}") from error
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # so do readers of EXIF, but the picture is sound
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_numpy(array: np.ndarray | torch.Tensor) -> np.ndarray:
    """The array itself, or that of a tensor of any device and dtype (NumPy has no bfloat16)."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    return array


def _pil_from_array(array: np.ndarray, input_data_format: str | ChannelDimension | None) -> Image.Image:
    """(H, W), (H, W, C) or (C, H, W), integers 0 to 255 or floats 0 to 1, as an image of mode L, RGB or RGBA."""
    if array.ndim == 3 and not {1, 3, 4}.intersection((array.shape[0], array.shape[-1])):
        raise ValueError(f"An image has 1, 3 or 4 channels, first or last; got an array of shape {array.shape}.")
    if array.ndim == 3:
        layout = input_data_format or infer_channel_dimension_format(array, num_channels=(1, 3, 4))
        array = np.moveaxis(array, 0, -1) if layout == ChannelDimension.FIRST else array
        array = array[..., 0] if array.shape[-1] == 1 else array

    is_float = np.issubdtype(array.dtype, np.floating)
    if not (is_float or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"An image array holds integers or floating-point numbers, got {array.dtype}.")
    if array.size == 0:
        raise ValueError(f"The image is empty: its shape is {array.shape}.")
    top = 1 if is_float else 255
    if not (array.min() >= 0 and array.max() <= top):  # written so that NaN fails, too
        kind = "A floating-point" if is_float else "An integer"
        raise ValueError(f"{kind} image must lie in [0, {top}], got [{array.min()}, {array.max()}].")
    array = (array * 255).round() if is_float else array
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
