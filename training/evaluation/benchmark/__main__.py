"""Measures a model on a public benchmark, from the benchmark's files as they are released.

python -m training.evaluation.benchmark pope --model build/hub/setokim-emoji-tiny --data data/pope --split popular

The model is a Setokim, a SeTok where reconstruction is measured, or, where a text is asked for, any image-text-to-text
model of transformers. With --output results.json, answers are kept in results.predictions.jsonl as they come: the same
command goes on from there after a killed run. results.submission holds the files for the benchmark's own scorer.
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import HfArgumentParser

from training.data.concept_text import text_model_path
from training.evaluation.benchmark.answering import Options, load_answerer
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.generation.networks import INCEPTION
from training.evaluation.benchmark.measuring import CUT, TOKENS, fingerprint, measure, read_examples
from training.evaluation.benchmark.registry import BENCHMARKS
from training.evaluation.report import choose_device, format_rows, mistakes_in_words, write_results
from training.loading import configuration


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of the model, with its processor"})
    data: str | None = field(
        default=None, metadata={"help": "folder of the benchmark's files, as released; easy-vqa's package has its own"}
    )
    split: str | None = field(default=None, metadata={"help": "default: the benchmark's first"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many examples"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results, beside which the rest goes"})
    batch_size: int = field(default=8, metadata={"help": "examples that the model reads at once"})
    answer_form: str | None = field(
        default=None,
        metadata={"help": "added to each request in place of the benchmark's own; '' for nothing"},
    )
    text_encoder: str | None = field(
        default=None, metadata={"help": "of a SeTok that names pictures: what its concept names were encoded with"}
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "of a text; default: the benchmark's own"})
    seed: int = field(default=0, metadata={"help": "of the visual tokens that are sampled"})
    visual_guidance_scale: float | None = field(
        default=None, metadata={"help": "classifier-free guidance of visual tokens; default: the model's own"}
    )
    visual_temperature: float | None = field(default=None, metadata={"help": "factor of their noise"})
    num_diffusion_steps: int | None = field(default=None, metadata={"help": "default: the model's own"})
    features: str | None = field(
        default=None, metadata={"help": "folder or Hub id of a vision encoder, for Fréchet distance and similarity"}
    )
    clip: str | None = field(default=None, metadata={"help": "folder or Hub id of a CLIP, for pictures and texts"})
    lpips: str | None = field(default=None, metadata={"help": "weights of training.packaged_models.lpips_vgg"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code that the model's repository holds"})


@mistakes_in_words()
def main() -> None:
    parser = HfArgumentParser(Arguments, description=__doc__)
    parser.add_argument("name", metavar="NAME", choices=list(BENCHMARKS), help=", ".join(BENCHMARKS))
    arguments, named = parser.parse_args_into_dataclasses()
    benchmark, device = BENCHMARKS[named.name], choose_device(arguments.device)
    if arguments.answer_form is not None:
        benchmark = replace(benchmark, answer_form=arguments.answer_form)
    if arguments.max_new_tokens is not None:
        benchmark = replace(benchmark, max_new_tokens=arguments.max_new_tokens)
    if arguments.data is None and benchmark.packaged is None:
        parser.error(f"{benchmark.name} needs --data, a folder with {benchmark.files}")
    if arguments.output is not None and not arguments.output.endswith(".json"):
        parser.error("--output names the JSON file of the results, such as results/mine.json")
    split = arguments.split or benchmark.splits[0]
    data = benchmark.packaged() if arguments.data is None else Path(arguments.data)
    examples = read_examples(benchmark, data, split, arguments.limit)
    for name in {arguments.features, arguments.clip} - {None, INCEPTION}:
        configuration(name)  # a wrong name is not found out only when all is answered
    if arguments.lpips is not None and not Path(arguments.lpips).is_file():
        parser.error(f"There is no {arguments.lpips}, weights of LPIPS: training.packaged_models.lpips_vgg makes them")
    answerer = load_answerer(arguments.model, device, arguments.trust_remote_code, arguments.text_encoder)
    run = {
        "data": str(data), "split": split, "model": arguments.model, "model_files": fingerprint(arguments.model)
    }  # fmt: skip
    if arguments.text_encoder is not None:
        files = fingerprint(str(text_model_path(arguments.text_encoder)))
        run |= {"text_encoder": arguments.text_encoder, "text_encoder_files": files}
    sampling = ("visual_guidance_scale", "visual_temperature", "num_diffusion_steps")
    given = {name: getattr(arguments, name) for name in sampling}
    with tempfile.TemporaryDirectory() as folder:
        results = measure(
            benchmark,
            answerer,
            examples,
            Path(arguments.output or f"{folder}/results.json"),
            run=run,
            batch_size=arguments.batch_size,
            networks=Networks(arguments.features, arguments.clip, arguments.lpips, device),
            options=Options(
                max_new_tokens=benchmark.max_new_tokens,
                seed=arguments.seed,
                generation={name: value for name, value in given.items() if value is not None},
            ),
        )
    print(f"{arguments.model} on {benchmark.name}, split {split}\n")
    print(format_rows([*benchmark.rows, TOKENS, CUT], results))
    if arguments.output:
        write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
