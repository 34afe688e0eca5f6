"""Plots what each setting of the clustering does:
python -m training.evaluation.object_discovery.sweep --model FOLDER --output sweep.png

One setting at a time is changed. A picture is encoded once for each resolution, and gives the features of all layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokModel
from modeling_setok.density_peaks import cluster_tokens, feature_scale, unit_directions
from modeling_setok.vision_encoder import encode_layers
from processing import SetokImageProcessor
from training.data import PhotoSceneConfig
from training.evaluation.metrics import ForegroundAdjustedRandIndex, MeanBestOverlap, pixel_labels, upsample_labels
from training.evaluation.object_discovery.encoding import load_model, scaled_neighbors
from training.evaluation.object_discovery.worlds import GROUNDS, DiscoveryScene, Worlds
from training.evaluation.report import choose_device, write_results

FIGURES = {"fg_ari": "FG-ARI", "mbo": "mBO"}
PANELS = {
    "num_neighbors": "K",
    "layer": "layer",
    "image_size": "resolution (pixels)",
    "criterion": "criterion",
    "assignment": "assignment",
}


@dataclass
class Arguments:
    """The first of a setting's values is the one that it has in the panels of the others."""

    model: str = field(metadata={"help": "folder of a vision encoder"})
    output: str = field(metadata={"help": "picture to write; the figures go beside it, as JSON"})
    worlds: list[str] = field(default_factory=lambda: list(GROUNDS), metadata={"help": "a line in each panel"})
    num_scenes: int = field(default=30, metadata={"help": "test scenes of each world"})
    seed: int = field(default=0, metadata={"help": "of the scenes"})
    num_neighbors: list[int] = field(
        default_factory=lambda: [16, 6, 11, 24, 36],
        metadata={"help": "K at the first resolution; at another it stands for as large a part of the picture"},
    )
    layer: list[int] = field(default_factory=lambda: [11, 9, 10, 12], metadata={"help": "hidden states to cluster"})
    image_size: list[int] = field(default_factory=lambda: [518, 224, 378], metadata={"help": "sides in pixels"})
    criterion: list[str] = field(default_factory=lambda: ["relative", "product"], metadata={"help": "criteria"})
    assignment: list[str] = field(default_factory=lambda: ["chain", "nearest"], metadata={"help": "assignments"})
    photo_folder: str = field(
        default=PhotoSceneConfig.folder, metadata={"help": "pictures of PhotoScenes, as its fetch.py wrote them"}
    )
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})


@dataclass(frozen=True)
class Setting:
    """One value for each panel."""

    num_neighbors: int
    layer: int
    image_size: int
    criterion: str
    assignment: str


class LayersOfPictures:
    """What the encoder makes of a picture at each resolution.

    Args:
        layers: hidden states, whose features are taken in one forward.
    """

    def __init__(self, model: SetokModel, image_processor: SetokImageProcessor, layers: Sequence[int]):
        self.model, self.image_processor, self.layers = model, image_processor, list(layers)

    @torch.no_grad()
    def __call__(self, scene: DiscoveryScene, image_size: int) -> tuple[dict[int, torch.Tensor], tuple[int, int]]:
        """Layer -> its features (1, N, D) float32, and their grid (h, w)."""
        size = {"height": image_size, "width": image_size}
        pixel_values = self.image_processor([scene.image], size=size, return_tensors="pt")["pixel_values"]
        patches, grid_size = encode_layers(
            self.model.vision_encoder, self.model.config, pixel_values.to(self.model.device), self.layers
        )
        return {layer: own.float() for layer, own in patches.items()}, tuple(grid_size)


def sweep(
    model: SetokModel, image_processor: SetokImageProcessor, worlds: Worlds, arguments: Arguments
) -> dict[str, dict[str, list[dict[str, float | int | str]]]]:
    """World -> panel -> for each value `value`, `fg_ari`, `mbo`. S is calibrated for each world, layer, resolution."""
    encode = LayersOfPictures(model, image_processor, sorted(set(arguments.layer)))
    panels = settings_of_panels(arguments)
    return {name: _sweep_world(name, encode, worlds, panels, arguments) for name in arguments.worlds}


def settings_of_panels(arguments: Arguments) -> dict[str, list[Setting]]:
    """Panel -> the settings in it, by rising value where values are numbers."""
    values = {name: getattr(arguments, name) for name in PANELS}
    if not all(values.values()):
        raise ValueError(f"Each of {', '.join(PANELS)} needs a value, got {values}.")
    first = Setting(**{name: choices[0] for name, choices in values.items()})
    panels = {}
    for name, choices in values.items():
        choices = sorted(choices) if isinstance(choices[0], int) else choices
        panels[name] = [replace(first, **{name: value}) for value in choices]
    return panels


def _sweep_world(
    name: str, encode: LayersOfPictures, worlds: Worlds, panels: Mapping[str, list[Setting]], arguments: Arguments
) -> dict[str, list[dict]]:
    settings = {setting for panel in panels.values() for setting in panel}
    sizes = sorted(set(arguments.image_size))
    scales, num_patches = _calibrate(name, encode, worlds, sizes)
    metrics = {setting: (ForegroundAdjustedRandIndex(), MeanBestOverlap()) for setting in settings}
    scenes = worlds(name, "test", arguments.num_scenes, arguments.seed)
    for index in tqdm(range(len(scenes)), desc=name, leave=False):
        scene = scenes.scene(index)
        reference = pixel_labels(scene.masks)
        for size in sizes:
            features, grid_size = encode(scene, size)
            for setting in settings:
                if setting.image_size != size:
                    continue
                clusters = cluster_tokens(
                    features[setting.layer],
                    num_neighbors=scaled_neighbors(
                        setting.num_neighbors, num_patches[arguments.image_size[0]], num_patches[size]
                    ),
                    criterion=setting.criterion,
                    assignment=setting.assignment,
                    scale=scales[setting.layer, size],
                )
                labels = clusters.cluster_ids[0].cpu().numpy().reshape(grid_size)
                prediction = upsample_labels(labels, reference.shape)
                for metric in metrics[setting]:
                    metric.add_batch(predictions=[prediction], references=[reference])
    results = {setting: {} for setting in settings}
    for setting, pair in metrics.items():
        for metric in pair:
            results[setting] |= metric.compute()
    return {
        panel: [
            {"value": getattr(setting, panel), **{figure: results[setting][figure] for figure in FIGURES}}
            for setting in chosen
        ]
        for panel, chosen in panels.items()
    }


def _calibrate(
    name: str, encode: LayersOfPictures, worlds: Worlds, sizes: Sequence[int]
) -> tuple[dict[tuple[int, int], float], dict[int, int]]:
    """S by layer and resolution, and the number of patches by resolution."""
    found, num_patches = {}, {}
    for scene in tqdm(list(worlds.calibration(name)), desc=f"{name}: S", leave=False):
        for size in sizes:
            features, (height, width) = encode(scene, size)
            num_patches[size] = height * width
            for layer, patches in features.items():
                found.setdefault((layer, size), []).append(feature_scale(*unit_directions(patches)))
    return {key: float(torch.cat(scales).mean()) for key, scales in found.items()}, num_patches


def plot(results: Mapping[str, Mapping[str, Sequence[Mapping]]]) -> Figure:
    """A panel for each setting; a colour for each world, a line style for each figure."""
    figure = Figure(figsize=(3 * len(PANELS), 3), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (panel, title) in zip(axes, PANELS.items(), strict=True):
        for number, (world, panels) in enumerate(results.items()):
            values = [str(row["value"]) for row in panels[panel]]
            for (key, name), style in zip(FIGURES.items(), ("-o", "--s"), strict=True):
                heights = [row[key] for row in panels[panel]]
                axis.plot(values, heights, style, color=f"C{number}", label=f"{name}, {world}")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(FIGURES) * len(results))
    return figure


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    first = {name: getattr(arguments, name)[0] for name in ("num_neighbors", "criterion", "assignment")}
    model, image_processor = load_model(
        arguments.model, arguments.image_size[0], vision_feature_layer=arguments.layer[0], **first
    )
    model.to(choose_device(arguments.device))
    results = sweep(model, image_processor, Worlds(arguments.image_size[0], arguments.photo_folder), arguments)
    plot(results).savefig(arguments.output, dpi=150)
    write_results(str(Path(arguments.output).with_suffix(".json")), arguments, results)
    for world, panels in results.items():
        for panel, rows in panels.items():
            for row in rows:
                print(f"{world:16}{panel:16}{row['value']!s:12}FG-ARI {row['fg_ari']:.3f}  mBO {row['mbo']:.3f}")


if __name__ == "__main__":
    main()
