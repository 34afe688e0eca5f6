"""What SeTok costs beside its vision encoder, and what packing the clusters saves: times and their ratios in one run.

    python -m training.evaluation.cost                       # the paper's model, 1 and 8 images (minutes on a CPU)
    python -m training.evaluation.cost --tiny                # the same for a small model, in seconds
    python -m training.evaluation.cost --parameters          # parameters of each part of the paper's model
    python -m training.evaluation.cost --forward             # one forward of two photographs with random weights

Weights are random. The patches that are clustered and merged are planted: every image falls into 16 regions of uneven
size, so that clusters are as many and as large as on photographs whatever the random encoder makes of an image.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, set_seed

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel
from modeling_setok.token_merger import TokenMerger
from modeling_setok.transformer import grid_positions, place_code, rotary_angles

REGIONS = 16


@dataclass
class BenchmarkArguments:
    tiny: bool = field(default=False, metadata={"help": "A small model instead of the paper's."})
    parameters: bool = field(default=False, metadata={"help": "Count parameters instead of timing."})
    forward: bool = field(default=False, metadata={"help": "Run one forward of two photographs instead of timing."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8], metadata={"help": "Images per forward."})
    repeats: int = field(default=3, metadata={"help": "Timed rounds; every round runs every contestant once."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; default: PyTorch's choice."})
    device: str = field(default="cpu", metadata={"help": "Where to run, as PyTorch names it."})
    seed: int = field(default=0, metadata={"help": "Of the weights and the planted patches."})


def benchmark_config(tiny: bool) -> SetokConfig:
    if not tiny:
        return SetokConfig()
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    return SetokConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 96, "patch_size": 6, "num_hidden_layers": 4}
        | sizes,
        detokenizer_config={"num_hidden_layers": 2, "grid_size": 12, "decoder_channels": (64, 32, 32, 16)} | sizes,
        num_inner_layers=2,
        num_inter_layers=2,
        num_neighbors=4,
        **sizes,
    )


def planted_patches(batch: int, grid: int, dim: int, device: torch.device) -> torch.Tensor:
    """Patch embeddings (batch, grid * grid, dim) of images that consist of `REGIONS` Voronoi cells each."""
    cells = grid_positions(grid, grid).expand(batch, -1, -1)
    regions = torch.cdist(cells, grid * torch.rand(batch, REGIONS, 2)).argmin(dim=-1)
    contents = torch.randn(batch, REGIONS, dim).gather(1, regions[..., None].expand(-1, -1, dim))
    return (contents + 0.3 * torch.randn_like(contents)).to(device)


def merge_in_a_loop(
    merger: TokenMerger, patches: torch.Tensor, cluster_ids: torch.LongTensor, grid_size: tuple[int, int]
) -> torch.Tensor:
    """`TokenMerger.merge_clusters` for hard masks, one cluster after the other: the baseline that packing replaces."""
    config = merger.config
    positions = grid_positions(*grid_size, device=patches.device)
    hidden_states = merger.patch_projection(merger.patch_norm(patches))
    hidden_states = hidden_states + place_code(merger.position_embedding, *grid_size)
    cos, sin = rotary_angles(positions, config.hidden_size // config.num_attention_heads, config.rope_theta)
    tokens = hidden_states.new_zeros(len(patches), int(cluster_ids.max()) + 1, config.hidden_size)
    for image, (image_states, ids) in enumerate(zip(hidden_states, cluster_ids, strict=True)):
        for cluster in range(int(ids.max()) + 1):
            members = ids == cluster
            states = image_states[members][None]
            for layer in merger.inner_layers:
                states = layer(states, rotary=(cos[members], sin[members]))
            tokens[image, cluster] = merger.inner_norm(states).mean(dim=1)[0]
    return tokens


def contestants(model: SetokModel, batch: int) -> tuple[dict[str, Callable[[], torch.Tensor]], float]:
    """What is timed, by name, and the mean number of tokens per image. Raises if the three ways to merge disagree."""
    vision_config, merger = model.config.vision_config, model.token_merger
    grid = vision_config.image_size // vision_config.patch_size
    pixel_values = torch.randn(batch, 3, vision_config.image_size, vision_config.image_size).to(model.device)
    patches = planted_patches(batch, grid, vision_config.hidden_size, model.device)
    clusters, _ = model.token_clustering(patches)
    tokens = torch.arange(int(clusters.num_tokens.max()), device=model.device)
    masks = (clusters.cluster_ids[:, None, :] == tokens[:, None]).to(patches.dtype)

    def with_packing(pack_clusters: bool, merge: Callable, *inputs) -> torch.Tensor:
        model.config.pack_clusters = pack_clusters
        return merge(*inputs)

    partition = (patches, clusters.cluster_ids, masks, (grid, grid))
    timed = {
        "vision encoder": lambda: model.get_patch_embeddings(pixel_values)[0],
        "clustering": lambda: model.token_clustering(patches)[0].cluster_ids,
        "merger": lambda: with_packing(True, merger, patches, clusters, (grid, grid))[0],
        "inner, packed": lambda: with_packing(True, merger.merge_clusters, *partition),
        "inner, block-diagonal mask": lambda: with_packing(False, merger.merge_clusters, *partition),
        "inner, per-cluster loop": lambda: merge_in_a_loop(merger, patches, clusters.cluster_ids, (grid, grid)),
    }
    expected = timed["inner, packed"]()
    for name in ("inner, block-diagonal mask", "inner, per-cluster loop"):
        torch.testing.assert_close(timed[name](), expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    return timed, float(clusters.num_tokens.float().mean())


def time_in_turns(
    timed: dict[str, Callable[[], torch.Tensor]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, after an untimed one. Taking turns spreads disturbances evenly."""
    seconds = {name: [] for name in timed}
    for round_number in range(repeats + 1):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            if round_number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


RATIOS = {
    "clustering / vision encoder": (("clustering",), ("vision encoder",)),
    "(clustering + merger) / vision encoder": (("clustering", "merger"), ("vision encoder",)),
    "inner: block-diagonal mask / packed": (("inner, block-diagonal mask",), ("inner, packed",)),
    "inner: per-cluster loop / packed": (("inner, per-cluster loop",), ("inner, packed",)),
}


@torch.no_grad()
def print_benchmark(arguments: BenchmarkArguments) -> None:
    config = benchmark_config(arguments.tiny)
    model = SetokModel(config).eval().to(arguments.device)
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    print(
        f"{size} px, {size // patch} x {size // patch} patches, {config.num_inner_layers} inner and "
        f"{config.num_inter_layers} inter layers of width {config.hidden_size}; {model.device}, {model.dtype}, "
        f"{torch.get_num_threads()} threads; best and median of {arguments.repeats} rounds"
    )
    for batch in arguments.batch_sizes:
        timed, num_tokens = contestants(model, batch)
        seconds = time_in_turns(timed, arguments.repeats, model.device)
        best = {name: min(times) for name, times in seconds.items()}
        median = {name: statistics.median(times) for name, times in seconds.items()}
        print(f"\n{f'batch of {batch}, {num_tokens:.1f} tokens per image':<42}{'best':>10}{'median':>10}")
        for name in timed:
            print(f"{name + ', ms per image':<42}{1e3 * best[name] / batch:>10.1f}{1e3 * median[name] / batch:>10.1f}")
        for name, (above, below) in RATIOS.items():
            ratios = [sum(map(times.get, above)) / sum(map(times.get, below)) for times in (best, median)]
            print(f"{name:<42}{ratios[0]:>10.3f}{ratios[1]:>10.3f}")


def print_parameters(arguments: BenchmarkArguments) -> None:
    with torch.device("meta"):
        model = SetokForPreTraining(benchmark_config(arguments.tiny))
    merger, detokenizer = model.setok.token_merger, model.detokenizer
    parts = {
        "vision encoder": model.setok.vision_encoder,
        "token clustering": model.setok.token_clustering,
        "token merger": merger,
        "  inner-cluster transformer": merger.inner_layers,
        "  inter-cluster transformer": merger.inter_layers,
        "detokenizer": detokenizer,
        "  blocks": detokenizer.layers,
        "  pixel decoder": detokenizer.pixel_decoder,
        "contrastive projections": torch.nn.ModuleList([model.visual_projection, model.text_projection]),
        "total": model,
    }
    for name, part in parts.items():
        print(f"{name:<30}{sum(parameter.numel() for parameter in part.parameters()):>15,}")


@torch.no_grad()
def print_forward(arguments: BenchmarkArguments) -> None:
    import resource

    from skimage import data

    from processing import SetokImageProcessor

    config = benchmark_config(arguments.tiny)
    model = SetokForPreTraining(config).eval().to(arguments.device)
    size = config.vision_config.image_size
    processor = SetokImageProcessor(size={"height": size, "width": size})
    pixel_values = processor([data.astronaut(), data.coffee()], return_tensors="pt").pixel_values.to(model.device)
    start = time.perf_counter()
    outputs = model.setok(pixel_values)
    tokenised = time.perf_counter()
    painted = model.detokenize(outputs.last_hidden_state, outputs.token_mask)
    if not (outputs.last_hidden_state.isfinite().all() and painted.isfinite().all()):
        raise SystemExit("The forward gave numbers that are not finite.")
    counts = outputs.num_tokens.tolist()
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(
        f"{tuple(pixel_values.shape)} pixels -> {counts} concept tokens of at most {config.max_tokens} in "
        f"{tokenised - start:.1f} s -> {tuple(painted.shape)} pixels in {end - tokenised:.1f} s, all finite; "
        f"{torch.get_num_threads()} threads, peak memory {peak:.1f} GiB"
    )


def main() -> None:
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    set_seed(arguments.seed)
    if arguments.parameters:
        print_parameters(arguments)
    elif arguments.forward:
        print_forward(arguments)
    else:
        print_benchmark(arguments)


if __name__ == "__main__":
    main()
