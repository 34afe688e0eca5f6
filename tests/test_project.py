"""What rots unseen: packaging, import hygiene, remote-code rules, recipes."""

import ast
import importlib
import re
import subprocess
import sys
from configparser import ConfigParser
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.dynamic_module_utils import get_imports, get_relative_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_setok", "processing", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "build", "out"} & set(path.relative_to(ROOT).parts))
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
# Files that transformers copies beside a published checkpoint, and runs from there.
REMOTE_CODE = sorted(
    path
    for pattern in ("modeling_setok/*.py", "processing/image_processing_*.py", "processing/processing_*.py")
    for path in ROOT.glob(pattern)
    if path.name != "__init__.py"
)


# The rooms of the project, and those that the code of each may import beside its own: arrows run one way. A file
# belongs to the longest path here that holds it.
ROOMS = {
    "modeling_setok": set(),
    "processing": {"modeling_setok"},
    "training/data/schema.py": set(),
    "training/data/composition.py": set(),
    "training/data/scene_rows.py": {"training/data/schema.py"},
    "training/data/emoji_scenes": {
        "training/data/schema.py", "training/data/composition.py", "training/data/scene_rows.py"
    },
    "training/data/photo_scenes": {
        "training/data/schema.py", "training/data/composition.py", "training/data/scene_rows.py",
        "training/data/emoji_scenes",
    },
    "training/data/entries": {"training/data/schema.py"},
    "training/data/readers": {"training/data/schema.py", "training/data/entries"},
    "training/data/sprite_worlds": set(),
    "training/data": {
        "processing", "training/data/schema.py", "training/data/composition.py", "training/data/emoji_scenes",
        "training/data/photo_scenes", "training/data/entries", "training/data/readers", "training/data/sprite_worlds",
    },
    "training/evaluation/metrics": set(),
    "training/evaluation/modules": {"training/evaluation/metrics"},
    "training/evaluation/object_discovery": {
        "modeling_setok", "processing", "training/data", "training/evaluation", "training/evaluation/metrics"
    },
    "training/evaluation/benchmark/benchmark.py": {"training/evaluation"},
    "training/evaluation/benchmark/released.py": {"training/data/entries"},
    "training/evaluation/benchmark/understanding": {
        "training/data/entries", "training/data/readers",
        "training/evaluation", "training/evaluation/benchmark/benchmark.py",
        "training/evaluation/benchmark/released.py", "training/evaluation/metrics",
    },
    "training/evaluation/benchmark/segmentation": {
        "training/data", "training/data/entries", "training/data/readers",
        "training/evaluation", "training/evaluation/benchmark/benchmark.py",
        "training/evaluation/benchmark/released.py", "training/evaluation/metrics",
    },
    "training/evaluation/benchmark/generation": {
        "training/data", "training/data/entries", "training/data/readers",
        "training/evaluation", "training/evaluation/benchmark/benchmark.py",
        "training/evaluation/benchmark/released.py", "training/evaluation/metrics", "training/losses",
    },
    "training/evaluation/benchmark": {
        "modeling_setok", "processing", "training/data", "training/data/entries", "training/data/readers",
        "training/evaluation", "training/evaluation/metrics", "training/loading.py",
        "training/evaluation/benchmark/benchmark.py", "training/evaluation/benchmark/understanding",
        "training/evaluation/benchmark/segmentation", "training/evaluation/benchmark/generation",
    },
    "training/evaluation/evaluate_setokim.py": {
        "modeling_setok", "processing", "training/data", "training/evaluation", "training/evaluation/metrics",
        "training/evaluation/benchmark", "training/evaluation/benchmark/benchmark.py", "training/loading.py",
    },
    "training/evaluation/cost_training.py": {"training", "training/data", "training/evaluation"},
    "training/evaluation": {
        "modeling_setok", "processing", "training/data", "training/data/emoji_scenes", "training/evaluation/metrics",
        "training/losses", "training/loading.py", "training/packaged_models", "training/whole_files.py",
    },
    "training/loading.py": set(),
    "training/whole_files.py": set(),
    "training/packaged_models": set(),
    "training/hub": {
        "modeling_setok", "processing", "training/evaluation", "training/evaluation/evaluate_setokim.py",
        "training/loading.py", "training/packaged_models",
    },
    "training/demo": {
        "modeling_setok", "processing", "training/data", "training/data/emoji_scenes", "training/evaluation",
        "training/evaluation/metrics", "training/loading.py",
    },
    "training/losses": {"modeling_setok"},
    "training/dry_run": {"modeling_setok", "processing", "training/data", "training/data/schema.py"},
    "training": {
        "modeling_setok", "processing", "training/data", "training/dry_run", "training/losses", "training/evaluation",
        "training/loading.py", "training/packaged_models", "training/whole_files.py",
    },
}  # fmt: skip
# At the top of training/ lies what trains: a script for each stage, and what these share.
LAUNCH_SCRIPTS = {
    "cache_patches.py", "train_setok.py", "cache_tokens.py", "pretrain_setokim.py", "finetune_setokim.py"
}  # fmt: skip
SHARED_BY_SCRIPTS = {
    "__init__.py", "trainer_setok.py", "trainer_setokim.py", "recipe.py", "configs.py", "loading.py", "checkpoints.py",
    "freezing.py", "memory.py", "shards.py", "patch_cache.py", "token_cache.py", "run_summary.py", "samples.py",
    "samples_setokim.py", "projector_names.py", "streaming.py", "token_shares.py", "whole_files.py",
}  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_setup_cfg_ships_every_package(setup_cfg):
    """`find:` silently leaves out a folder without __init__.py, or outside the include list."""
    assert setup_cfg["options.packages.find"]["include"].split() == [f"{package}*" for package in PACKAGES]
    folders = {path.parent for path in MODULES}
    assert {ROOT / package for package in PACKAGES} <= folders
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_imports(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def room_of(path: str) -> str:
    return max((room for room in ROOMS if f"{path}/".startswith(f"{room}/")), key=len)


def imported_paths(path: Path):
    """The files and folders of the project that a file imports, relative to the root."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = relative(path).split("/")[: -node.level] if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            modules = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in modules:
            folder = Path(*module.split("."))
            if folder.parts[0] in PACKAGES:
                candidates = [folder / f"{name}.py", folder / str(name), folder.with_suffix(".py"), folder]
                yield next(found.as_posix() for found in candidates if (ROOT / found).exists()), node.lineno


def test_imports_run_one_way():
    """No folder imports one that stands above it."""
    wrong = [
        f"{relative(path)}:{line} imports {imported}"
        for path in MODULES
        for imported, line in imported_paths(path)
        if room_of(imported) not in ROOMS[room_of(relative(path))] | {room_of(relative(path))}
    ]
    assert wrong == []
    list(TopologicalSorter(ROOMS).static_order())  # raises where the table itself has a circle


def test_the_top_of_training_holds_only_what_trains():
    names = {path.name for path in (ROOT / "training").glob("*.py")}
    assert names == LAUNCH_SCRIPTS | SHARED_BY_SCRIPTS


def test_no_private_name_is_imported_from_another_file():
    private = [
        f"{relative(path)}:{node.lineno}: {alias.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


@pytest.mark.parametrize("folder", ["modeling_setok", "processing"])
def test_files_of_the_models_are_short_enough_to_read(folder):
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in (ROOT / folder).glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_of_a_page_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=relative)
def test_commands_of_a_page_name_what_is_there(path):
    """Modules after `python -m`, scripts, recipes and tests."""
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:training|tests)[\w.]*\w)", text):
        file = ROOT.joinpath(*module.split("."))
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module
    for file in re.findall(
        r"(?<![\w./-])((?:training|tests|processing|modeling_setok)/[\w./-]*\.(?:py|yaml|md))", text
    ):
        assert (ROOT / file).exists(), file


def requirements(setup_cfg: ConfigParser) -> list[Requirement]:
    extras = setup_cfg["options.extras_require"]
    lines = [setup_cfg["options"]["install_requires"], *extras.values()]
    return [Requirement(line) for line in "\n".join(lines).split()]


def test_every_requirement_is_pinned_to_an_allowed_version(setup_cfg):
    versions = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==" and "+" not in specifier.version, line
            versions[canonicalize_name(pin.name)] = specifier.version
    for requirement in requirements(setup_cfg):
        if requirement.name != "flash-attn":  # compiled for one GPU and one torch: the user's choice
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_every_imported_package_is_a_requirement(setup_cfg):
    """Otherwise it only happens to be there, because another package wants it."""
    distributions = packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in requirements(setup_cfg)}
    own_or_builtin = {*PACKAGES, "tests", *sys.stdlib_module_names}
    undeclared = set()
    for path in (*MODULES, *(ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - own_or_builtin:
                if declared.isdisjoint(map(canonicalize_name, distributions.get(name, [name]))):
                    undeclared.add(f"{relative(path)}: {name}")
    assert undeclared == set()


def test_models_and_processors_need_only_the_base_installation():
    """Whoever only runs a checkpoint has neither torchvision nor anything of the extras."""
    absent = "torchvision flash_attn diffusers accelerate datasets tensorboard skimage sklearn scipy torchmetrics"
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent.split()}))\n"  # None in sys.modules: the import fails
        "import modeling_setok, processing\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", REMOTE_CODE, ids=relative)
def test_remote_code_can_be_copied_flat(path):
    """transformers copies such a file and what it imports into one folder: `from .file import name` alone survives."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, f"{path.name}:{node.lineno}"
    # transformers finds imports by regular expression, in docstrings too.
    for name in get_relative_imports(path):
        assert path.with_name(f"{name}.py").exists(), f"{path.name} seems to import .{name}"


@pytest.mark.parametrize("path", REMOTE_CODE, ids=relative)
def test_remote_code_asks_only_for_the_base_installation(path):
    """transformers refuses to load code whose imports are not all there, unless they stand in `try`."""
    base = {"torch", "transformers", "tokenizers", "numpy", "PIL", "huggingface_hub"}
    assert set(get_imports(path)) <= base | sys.stdlib_module_names


@pytest.mark.parametrize("path", REMOTE_CODE, ids=relative)
def test_remote_code_has_no_tokenizer_in_its_names(path):
    """transformers takes a class or file of such a name for a text tokenizer, and cannot load it back.

    Its check is case-sensitive: a Detokenizer is fine.
    """
    classes = [node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
    assert not [name for name in (path.stem, *classes) if "Tokenizer" in name]


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_a_mapping_without_repeated_keys(path):
    text = path.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert isinstance(recipe, dict) and recipe
    # YAML lets the last of two equal keys win, silently.
    keys = re.findall(r"^(\w+)\s*:", text, flags=re.MULTILINE)
    assert sorted(keys) == sorted(recipe)


def test_no_file_names_a_path_of_one_machine():
    folders = (*PACKAGES, "tests", "model_cards", ".ci")
    suffixes = {".py", ".md", ".cfg", ".toml", ".txt", ".json", ".yaml", ""}
    top = [path for path in ROOT.iterdir() if path.name != ".git"]  # a file in a second working tree of git
    files = [*top, *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    absolute = re.compile(r"(?<![\w.:])/(home|root|work|opt|mnt|tmp|Users)/|[A-Z]:\\")
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in files
        if path.is_file() and path.suffix in suffixes
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if absolute.search(line)
    ]
    assert found == []
