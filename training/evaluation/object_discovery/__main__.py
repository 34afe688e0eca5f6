"""Measures object discovery: python -m training.evaluation.object_discovery --model FOLDER --worlds photo_flat"""

import time
from dataclasses import dataclass, field

from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokModel
from processing import SetokImageProcessor
from training.data import PhotoSceneConfig
from training.evaluation.object_discovery.discovery import compare, mean_clusters, over_seeds
from training.evaluation.object_discovery.encoding import calibrate, encode, load_model
from training.evaluation.object_discovery.methods import METHODS, SHARP
from training.evaluation.object_discovery.slots import SlotTraining, train_slots
from training.evaluation.object_discovery.tables import world_table
from training.evaluation.object_discovery.worlds import WORLDS, Worlds
from training.evaluation.report import choose_device, write_results

FINE = 3  # pixels on a patch's side from which borders between patches can be sharpened


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder of a SeTok or of a vision encoder"})
    worlds: list[str] = field(default_factory=lambda: list(WORLDS), metadata={"help": f"some of {', '.join(WORLDS)}"})
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"some of {', '.join(METHODS)}, slots (trained first)"}
    )
    num_scenes: int = field(default=100, metadata={"help": "scenes of a world and seed"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of scenes and methods"})
    image_size: int | None = field(default=None, metadata={"help": "pixels to which pictures are resized, as a square"})
    layer: int | None = field(default=None, metadata={"help": "of an encoder: hidden state to cluster; default: last"})
    num_neighbors: int | None = field(default=None, metadata={"help": "of an encoder: K; default: by its grid"})
    criterion: str | None = field(default=None, metadata={"help": "of an encoder: relative (default) or product"})
    assignment: str | None = field(default=None, metadata={"help": "of an encoder: chain (default) or nearest"})
    photo_folder: str = field(
        default=PhotoSceneConfig.folder, metadata={"help": "pictures of PhotoScenes, as its fetch.py wrote them"}
    )
    slot_scenes: int = field(default=SlotTraining.num_scenes, metadata={"help": "scenes that slots are trained on"})
    slot_steps: int = field(default=SlotTraining.steps, metadata={"help": "batches that slots are trained for"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})

    def __post_init__(self):
        for name, chosen, known in (("worlds", self.worlds, WORLDS), ("methods", self.methods, [*METHODS, "slots"])):
            unknown = sorted(set(chosen) - set(known))
            if unknown or not chosen:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {', '.join(unknown) or 'none'}.")
        if self.num_scenes < 1 or not self.seeds:
            raise ValueError(f"needed: num_scenes >= 1 and a seed, got {self.num_scenes} and {self.seeds}.")


def measure_world(
    name: str, model: SetokModel, image_processor: SetokImageProcessor, worlds: Worlds, arguments: Arguments
) -> dict:
    """Results of a world, see `over_seeds`. Where the model has no S, it is calibrated on validation scenes."""
    is_calibrated = bool(model.token_clustering.feature_scale > 0)
    if not is_calibrated:
        calibrate(model, image_processor, tqdm(list(worlds.calibration(name)), desc=f"{name}: S", leave=False))
    training, training_features = SlotTraining(arguments.slot_scenes, arguments.slot_steps), []
    if "slots" in arguments.methods:
        scenes = worlds(name, "train", training.num_scenes, seed=0)
        indices = tqdm(range(len(scenes)), desc=f"{name}: slots", leave=False)
        training_features = [picture.features for picture in encode(model, image_processor, map(scenes.scene, indices))]
    runs = []
    for seed in arguments.seeds:
        scenes = worlds(name, "test", arguments.num_scenes, seed)
        indices = tqdm(range(len(scenes)), desc=f"{name}: seed {seed}", leave=False)
        pictures = list(encode(model, image_processor, map(scenes.scene, indices)))
        is_fine = min(pictures[0].scene.image.shape[:2]) >= FINE * max(pictures[0].grid_size)
        methods = {
            name: METHODS[name] for name in arguments.methods if name in METHODS and (is_fine or name not in SHARP)
        }
        if training_features:
            methods["slots"] = train_slots(training_features, mean_clusters(pictures), training, seed)
        runs.append(compare(methods, pictures, seed))
    if not is_calibrated:
        model.token_clustering.feature_scale.zero_()  # the next world has its own
    return over_seeds(runs)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    settings = {name: getattr(arguments, name) for name in ("num_neighbors", "criterion", "assignment")}
    model, image_processor = load_model(
        arguments.model, arguments.image_size, vision_feature_layer=arguments.layer, **settings
    )
    model.to(choose_device(arguments.device))
    worlds = Worlds(image_processor.size["height"], arguments.photo_folder)
    results = {}
    for name in arguments.worlds:
        start = time.perf_counter()
        results[name] = measure_world(name, model, image_processor, worlds, arguments)
        seconds = time.perf_counter() - start
        print(f"## {name}: {len(arguments.seeds)} × {arguments.num_scenes} scenes, {seconds:.0f} s\n")
        print(world_table(name, results[name]), end="\n\n", flush=True)
        if arguments.output:
            write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
