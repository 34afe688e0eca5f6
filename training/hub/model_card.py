"""Writes what was measured into model cards, as it stands in their results files:

python -m training.hub.model_card                                        the shipped models, and evaluation/README.md
python -m training.hub.model_card runs/my-setok --license cc-by-4.0      a model of your own, with a new card at first
"""

import argparse
import json
import re
import sys
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training.evaluation import evaluate_setok, evaluate_setokim
from training.evaluation.report import Row, markdown_rows

ROOT = Path(__file__).parents[2]
MODEL_CARDS = ROOT / "model_cards"
EVALUATION_PAGE = ROOT / "training" / "evaluation" / "README.md"
NAMESPACE = "your-name"  # in cards, until a model is pushed
SUMMARY = "training_summary.json"  # what the training scripts leave beside a model
FILL_IN = "(Fill in"  # begins what a new card leaves to its author

_TABLE = re.compile(r"(?<=<!-- table of )(\S+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_ROWS = {"setok": lambda results: evaluate_setok.ROWS, "setokim": evaluate_setokim.rows_of}  # of results
_PIPELINE_TAGS = {"setok": "image-feature-extraction", "setokim": "image-text-to-text"}
_TAGS = {
    "setok": ["setok", "vision", "image-tokenizer", "clustering"],
    "setokim": ["setok", "setokim", "text-to-image", "image-editing", "referring-segmentation"],
}


def fill_tables(text: str, folder: Path) -> str:
    """Puts the measured values between `<!-- table of PATH/results.json -->` and `<!-- end of table -->`, and what the
    training took between `<!-- table of PATH/training_summary.json -->` and the same.

    Args:
        folder: where the text stands; the paths are relative to it.

    Raises:
        ValueError: a results file, or the configuration beside it, is missing or is none.
    """

    def table(match: re.Match) -> str:
        path, rest = match.groups()
        if Path(path).name == SUMMARY:
            return f"{path}{rest}\n{_training_table(folder / path)}\n\n"
        rows, written = _measured((folder / path).parent)
        measured = f"On {written['data']['rows']}.\n\n" if written.get("data") else ""
        return f"{path}{rest}\n{measured}{markdown_rows(rows, written['results'])}\n\n"

    return _TABLE.sub(table, text)


def measured_card(folder: Path) -> str:
    """The model card in a folder with all that its results file says: tables, and `model-index` in the metadata.

    Raises:
        ValueError: no card, no results file, no place for the table, or a file that cannot be read.
    """
    path = folder / "README.md"
    if not path.exists():
        raise ValueError(
            f"{folder} has no model card: python -m training.hub.model_card {folder} --license ... makes one."
        )
    text = read_text(path)
    if "results.json" not in {match[1] for match in _TABLE.finditer(text)}:
        raise ValueError(
            f"{path} has no table of what was measured: put '<!-- table of results.json -->' and "
            "'<!-- end of table -->' on lines of their own, or delete the card for a new one."
        )
    try:
        card = ModelCard(fill_tables(text, folder))
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of {path} is not YAML: {error}") from error
    lacking = [name for name in ("license", "library_name", "pipeline_tag") if not card.data.get(name)]
    if lacking:
        raise ValueError(f"The metadata of {path}, between two lines of ---, lacks {', '.join(lacking)}.")
    card.data.model_name = folder.name
    card.data.eval_results = _eval_results(folder, card.data.pipeline_tag)
    return card.content


def new_card(folder: Path, license: str) -> str:
    """A card for a model that has none, from the template; what only its author knows is marked by `FILL_IN`."""
    model_type = _model_type(folder)
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=_PIPELINE_TAGS[model_type],
        tags=_TAGS[model_type],
        datasets=[f"{FILL_IN}: the id of each data set on the Hub, or its name)"],
        base_model=f"{FILL_IN}: the id of what it was made from; without such, delete this line)",
    )
    card = ModelCard.from_template(
        data,
        template_path=MODEL_CARDS / "template.md",
        name=folder.name,
        repo_id=f"{NAMESPACE}/{folder.name}",
        model_type=model_type,
        fill_in=FILL_IN,
        summary=SUMMARY if (folder / SUMMARY).exists() else None,
    )
    return card.content


def _eval_results(folder: Path, task: str) -> list[EvalResult]:
    rows, written = _measured(folder)
    arguments, results = written["arguments"], written["results"]
    if written.get("data"):
        name = written["data"]["name"]
        data = {"dataset_type": name, "dataset_name": name}
    else:
        options = {key: arguments.get(key) for key in ("num_scenes", "seed")}
        data = {"dataset_type": "emoji_scenes", "dataset_name": "EmojiScenes", "dataset_args": options}
        data["dataset_split"] = arguments.get("split")
    return [
        EvalResult(
            task_type=task,
            **data,
            metric_type=row.key,
            metric_name=row.title,
            metric_value=float(f"{results[row.key]:{row.form}}"),
        )
        for row in rows[1:]  # the first counts the pictures, others their parts
        if results.get(row.key) is not None and not row.key.endswith("_num_examples")
    ]


def _measured(folder: Path) -> tuple[list[Row], dict]:
    """Rows of the table of the folder's model, and the results file of its evaluation."""
    model_type = _model_type(folder)
    command = f"training.evaluation.evaluate_{model_type}"
    written = read_json(folder / "results.json", f"measure the model: python -m {command}")
    data, results = written.get("data", {"name": "", "rows": ""}), written.get("results")
    is_whole = isinstance(written.get("arguments"), dict) and isinstance(results, dict)
    rows = _ROWS[model_type](results) if is_whole else []
    is_named = isinstance(data, dict) and all(isinstance(data.get(key), str) for key in ("name", "rows"))
    if not is_whole or not is_named or rows[0].key not in results:
        raise ValueError(f"{folder / 'results.json'} is not what {command} --output writes.")
    return rows, written


def _training_table(file: Path) -> str:
    """A line in Markdown for each stage of the training."""
    lines = [("stage", "steps", "rows", "time", "machine", "software"), ("---", "---:", "---:", "---:", "---", "---")]
    try:
        for stage in read_json(file, "train the model again, or delete its table in the card")["stages"]:
            steps = f"{stage['steps']:,}"
            if "first_step" in stage:
                steps = f"{stage['first_step']:,} to {steps}"
            processes, machine = stage["processes"], "; ".join(stage["machines"])
            machine += f"; {processes} processes" if processes > 1 else ""
            software = f"torch {stage['torch']}, transformers {stage['transformers']}"
            lines.append((stage["name"], steps, f"{stage['rows']:,}", _told_time(stage["seconds"]), machine, software))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what a training script leaves: {type(error).__name__}: {error}.") from error
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _told_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _model_type(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} is an adapter: save and measure the model that merge_and_unload() makes.")
    model_type = read_json(folder / "config.json", "save the model there").get("model_type")
    if model_type not in _ROWS:
        raise ValueError(f"{folder} has a model of type {model_type!r}; there are cards for {', '.join(_ROWS)}.")
    return model_type


def read_text(path: Path) -> str:
    """Raises a `ValueError` that names the file unless it is UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}. Save it as such.") from error


def read_json(path: Path, remedy: str) -> dict:
    """The JSON object in a file.

    Raises:
        ValueError: the file is missing, which the remedy mends, or holds something else.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing; {remedy}.")
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="models with a results.json")
    parser.add_argument("--license", help="of the model in a new card: an identifier such as apache-2.0 or cc-by-4.0")
    arguments = parser.parse_args()
    folders = [Path(folder) for folder in arguments.folders] or shipped_models()
    texts = {}
    try:
        for folder in folders:
            card = folder / "README.md"
            if not card.exists():
                if arguments.license is None:
                    raise ValueError(f"{folder} has no model card. Say under which licence it stands: --license ...")
                card.write_text(new_card(folder, arguments.license), encoding="utf-8")
            texts[card] = measured_card(folder)
        if not arguments.folders:
            text = EVALUATION_PAGE.read_text(encoding="utf-8")
            texts[EVALUATION_PAGE] = fill_tables(text, EVALUATION_PAGE.parent)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        left = f"; {text.count(FILL_IN)} places are left to fill in" if FILL_IN in text else ""
        print(f"{path}: up to date{left}")


def shipped_models() -> list[Path]:
    """The folders of `model_cards/`."""
    return sorted(path.parent for path in MODEL_CARDS.glob("*/config.json"))


if __name__ == "__main__":
    main()
