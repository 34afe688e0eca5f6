"""`transformers serve` for a Setokim: an endpoint like OpenAI's, for harnesses that ask over HTTP.

python -m training.evaluation.serve --host 127.0.0.1 --port 8000

Its arguments are those of `transformers serve`, which needs `pip install "transformers[serving]"`; requests name the
folder or Hub id of a Setokim as their model. By itself transformers serves its own models alone, also with
--trust-remote-code: it knows them by tables of names, to one of which Setokim is added here.
"""

import sys

from transformers.cli.transformers import main as transformers_command
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration
from processing import SetokimProcessor  # noqa: F401, makes it known to AutoProcessor


def main() -> None:
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[SetokimConfig.model_type] = SetokimForConditionalGeneration.__name__
    sys.argv[1:1] = ["serve"]
    transformers_command()


if __name__ == "__main__":
    main()
