"""A Setokim as a model of lmms-eval, which finds it by the entry point `setokim` of group `lmms_eval.models`:

python -m lmms_eval --model setokim --model_args pretrained=FOLDER_OR_HUB_ID --tasks mme --batch_size 16

lmms-eval pins packages that this project does not want: install it with the extra `lmms-eval` into an environment of
its own.
"""

import warnings
from collections.abc import Sequence
from itertools import groupby

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.evaluation.chats import ends_of, read_chats, read_token_counts, written_after
from training.loading import load_whole

MAX_NEW_TOKENS = 128  # where a task names no limit
SAMPLING = ("temperature", "top_p", "top_k", "num_beams")  # of a task's `generation_kwargs`, passed on to `generate`


def manifest():
    """What the entry point gives lmms-eval: the name of the model and its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="setokim", chat_class_path=f"{__name__}.Setokim")


def __getattr__(name: str):
    """`Setokim`, the class that lmms-eval makes: its base can be imported only where lmms-eval is installed."""
    if name != "Setokim":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.api.model import lmms

    return type(name, (SetokimChat, lmms), {"__doc__": SetokimChat.__doc__})


class SetokimChat:
    """What a Setokim does for lmms-eval (beside the class `lmms`, its base there): answers to conversations with any
    number of pictures, `generate_until`.

    Args:
        pretrained: folder or Hub id of a Setokim with its processor.
        device: by default that of the process, as `accelerate` has it.
        batch_size: conversations that are answered at once; the answers are the same with any.
        dtype: of the weights, such as "bfloat16"; by default that in which they are saved.
    """

    is_simple = False

    def __init__(
        self, pretrained: str, device: str | None = None, batch_size: int | str = 1, dtype: str = "auto"
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size must be a number of at least 1, not {batch_size!r}")
        self.batch_size = int(batch_size)
        self.device = PartialState().device if device is None else torch.device(device)
        model = load_whole(SetokimForConditionalGeneration.from_pretrained, pretrained, "setokim", dtype=dtype)
        self.model = model.to(self.device).eval()
        self.processor = SetokimProcessor.from_pretrained(pretrained)

    def generate_until(self, requests: Sequence) -> list:
        """A `GenerationResult` for each request, with the number of tokens read, concept tokens included, and written.

        `request.args` is (context, messages of a document, `generation_kwargs`, number of the document, task, split),
        as chat models get it. Of `generation_kwargs` are used `until`, `max_new_tokens`, `do_sample` and `SAMPLING`.

        Raises:
            ValueError: a conversation with something else than texts and pictures.
        """
        from lmms_eval.api.instance import GenerationResult, TokenCounts

        results = []
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Setokim") as progress:
            for options, group in groupby((request.args for request in requests), key=lambda args: args[2]):
                group = list(group)
                for start in range(0, len(group), self.batch_size):
                    batch = [
                        _conversation(messages(self.task_dict[task][split][number]))
                        for _, messages, _, number, task, split in group[start : start + self.batch_size]
                    ]
                    for text, read, written in self._answer(batch, options):
                        results.append(GenerationResult(text, TokenCounts(input_tokens=read, output_tokens=written)))
                    progress.update(len(batch))
        return results

    def loglikelihood(self, requests: Sequence):
        raise NotImplementedError(
            "A Setokim answers in lmms-eval, but gives no log-likelihoods: choose a task whose output_type is "
            "generate_until, or `python -m training.evaluation.benchmark`, which measures choices by likelihood."
        )

    def generate_until_multi_round(self, requests: Sequence):
        raise NotImplementedError("Setokim in lmms-eval has no tasks of several rounds: choose one of generate_until.")

    @torch.no_grad()
    def _answer(self, conversations: list[list[dict]], options: dict) -> list[tuple[str, int, int]]:
        """Of each conversation the answer, and how many tokens were read and written."""
        inputs = read_chats(self.model, self.processor, conversations)
        sequences = self.model.generate(**inputs, return_dict_in_generate=False, **_generation(options))
        written = written_after(inputs, sequences)
        texts = self.processor.batch_decode(written, skip_special_tokens=True)
        texts = [_cut(text.strip(), options.get("until") or ()) for text in texts]
        lengths = [written.shape[1] if end is None else end + 1 for end in ends_of(self.model, written)]
        return list(zip(texts, read_token_counts(self.model, inputs), lengths, strict=True))


def _conversation(messages: list[dict]) -> list[dict]:
    """Messages as lmms-eval has them -> as our processor reads them."""
    parts = {"text": lambda part: {"type": "text", "text": part["text"]}}
    parts["image"] = lambda part: {"type": "image", "image": part["url"]}
    conversation = []
    for message in messages:
        kinds = {part["type"] for part in message["content"]}
        if unknown := sorted(kinds - set(parts)):
            raise ValueError(f"A Setokim reads texts and pictures, not {', '.join(unknown)}: choose another task.")
        content = [parts[part["type"]](part) for part in message["content"]]
        conversation.append({"role": message["role"], "content": content})
    return conversation


def _generation(options: dict) -> dict:
    """Arguments of `generate` from a task's `generation_kwargs`."""
    if unknown := sorted(set(options) - {"until", "max_new_tokens", "do_sample", *SAMPLING}):
        warnings.warn(f"Setokim makes no use of {', '.join(unknown)} in generation_kwargs.", stacklevel=2)
    generation = {"max_new_tokens": options.get("max_new_tokens", MAX_NEW_TOKENS), "do_sample": False, "num_beams": 1}
    if options.get("do_sample", options.get("temperature", 0) > 0) and options.get("temperature", 1) > 0:
        generation["do_sample"] = True
    names = SAMPLING if generation["do_sample"] else ("num_beams",)
    return generation | {name: options[name] for name in names if options.get(name) is not None}


def _cut(text: str, until: str | Sequence[str]) -> str:
    """The text up to the first of some stops."""
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
