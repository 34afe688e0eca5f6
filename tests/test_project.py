"""What rots unseen: packaging, import hygiene, remote-code rules, recipes."""

import ast
import importlib
import re
import subprocess
import sys
from configparser import ConfigParser
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
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
# Files that transformers copies beside a published checkpoint, and runs from there.
REMOTE_CODE = sorted(
    path
    for pattern in ("modeling_setok/*.py", "processing/image_processing_*.py", "processing/processing_*.py")
    for path in ROOT.glob(pattern)
    if path.name != "__init__.py"
)


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
    base = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
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
