"""Options of `generate` and of the tasks: a sequence, a picture, a mask, or a refusal that names the option."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from tests.robustness.campaign import campaign
from tests.setokim_testing import IMAGE, inputs_of, pictures, tiny_processor, tiny_setokim

pytestmark = pytest.mark.slow

NONSENSE = [math.nan, math.inf, -math.inf, -1, -0.5, "5", "x", [3], [], {}]
SENSE = {
    "max_visual_tokens": [1, 3], "visual_guidance_scale": [0, 1, 3.0], "visual_temperature": [0, 0.5],
    "num_diffusion_steps": [1, 4], "max_new_tokens": [1, 4], "num_beams": [1, 2], "num_return_sequences": [1, 2],
    "no_repeat_ngram_size": [0, 1, 2], "top_k": [1, 5], "top_p": [0.5], "min_p": [0.1], "typical_p": [0.5],
    "temperature": [0.5, 2.0], "repetition_penalty": [1.2], "length_penalty": [0.5], "prompt_lookup_num_tokens": [2],
    "min_new_tokens": [2], "max_length": [300],
}  # fmt: skip
OTHERS = {
    "do_sample": [True], "return_dict_in_generate": [True], "generator": [5, [5], torch.Generator(), "x", []],
    "suppress_tokens": [[1, 2]], "use_cache": [False], "output_scores": [True], "guidance_scale": [2.0, 1.0],
}  # fmt: skip
# Values of which nothing right can come: of what is a number, what is none
MUST_BE_NUMBERS = [*NONSENSE[:3], "5", "x", [3], [], {}]
# What of an option there is to name where it goes with others
NAMES = {
    "max_length": ["max_length", "max_new_tokens", "positions"],
    "suppress_tokens": ["suppress", "forbid", "no token is left"],
    "visual_guidance_scale": ["visual_guidance_scale"],
    "num_beams": ["beam"],
    "prompt_lookup_num_tokens": ["prompt_lookup_num_tokens", "assisted"],
    "num_return_sequences": ["num_return_sequences", "beam", "greedy"],
    "use_cache": ["cache"],
}


@pytest.fixture(scope="module")
def parts():
    processor = tiny_processor()
    return processor, tiny_setokim(processor)


def given_options(chance: random.Random):
    """Every option with every value, alone, sampled, and beside another that makes sense."""
    for name, sense in (SENSE | OTHERS).items():
        for value in [*sense, *(NONSENSE if name in SENSE else [])]:
            yield name, value, {name: value}
            yield name, value, {name: value, "do_sample": True}
            other = chance.choice(list(SENSE))
            if other != name:
                yield name, value, {other: chance.choice(SENSE[other]), name: value}


def names_of(options: dict) -> list[str]:
    return [word for name in options for word in [name, *NAMES.get(name, [])]]


def test_generate(parts):
    processor, model = parts
    prompts = [inputs_of(processor, [text], "left") for text in (f"{IMAGE} a dog", "paint: [Img]")]

    def is_right(output, inputs) -> bool:
        sequences = getattr(output, "sequences", output)
        start = inputs["input_ids"].repeat_interleave(len(sequences), 0)
        same = torch.equal(sequences[:, : start.shape[1]], start)
        images = [image for row in getattr(output, "visual_tokens", None) or [] for image in row]
        return same and all(image.ndim == 2 and bool(image.isfinite().all()) for image in images)

    with campaign("options of generate", least=1200) as cases:
        for inputs in prompts:
            for name, value, options in given_options(random.Random(0)):
                defaults = {"max_new_tokens": 4, "num_diffusion_steps": 2, "max_visual_tokens": 3}
                if "max_length" in options:
                    del defaults["max_new_tokens"]
                cases.run(
                    f"{inputs['input_ids'].shape} {options}",
                    lambda inputs=inputs, options=defaults | options: model.generate(**inputs, **options),
                    lambda output, inputs=inputs: is_right(output, inputs),
                    names=names_of(options),
                    must_refuse=name in SENSE and any(value is wrong for wrong in MUST_BE_NUMBERS),
                )
        for name, values in SENSE.items():  # the same from a file of settings
            for value in [*values, *NONSENSE]:
                config = GenerationConfig()
                config.update(max_new_tokens=2, num_diffusion_steps=2)
                setattr(config, name, value)
                cases.run(
                    f"generation_config: {name}={value!r}",
                    lambda config=config: model.generate(**prompts[0], generation_config=config),
                    lambda output: is_right(output, prompts[0]),
                    names=names_of({name: value}),
                    must_refuse=name != "max_length" and any(value is wrong for wrong in MUST_BE_NUMBERS),
                )


def test_tasks(parts):
    processor, model = parts
    image = pictures(1)[0]
    kinds = {
        "ask": str,
        "caption": str,
        "generate_image": Image.Image,
        "edit_image": Image.Image,
        "segment": np.ndarray,
    }
    calls = {
        "ask": lambda **options: model.ask(processor, image, "What?", **options),
        "caption": lambda **options: model.caption(processor, image, **options),
        "generate_image": lambda **options: model.generate_image(processor, "a dog", **options),
        "edit_image": lambda **options: model.edit_image(processor, image, "Add a dog.", **options),
        "segment": lambda **options: model.segment(processor, image, "a dog", **options),
    }
    with campaign("options of tasks", least=2500) as cases:
        for task, call in calls.items():
            for name, value, options in given_options(random.Random(1)):
                defaults = {"num_diffusion_steps": 1, "max_visual_tokens": 2, "max_new_tokens": 4}
                cases.run(
                    f"{task}: {options}",
                    lambda call=call, options=defaults | options: call(**options),
                    lambda result, task=task: isinstance(result, kinds.get(task, Image.Image)),
                    names=names_of(options),
                    must_refuse=name in SENSE and any(value is wrong for wrong in MUST_BE_NUMBERS),
                )
