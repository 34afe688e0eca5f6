"""Runs transformers' own common tests over the classes of this project, and counts them by mixin (`make conformance`).

The library's folder and this project's are one package, `tests`: so the library's modules call it.
"""

import sys
from collections import Counter, defaultdict

import pytest
from transformers.models.auto import modeling_auto

import tests
from tests.conformance.fetch import FOLDER

if not (FOLDER / "tests" / "generation").is_dir():
    raise pytest.UsageError("The common tests of transformers are not here: run  make conformance, which fetches them.")
tests.__path__ = [*tests.__path__, str(FOLDER / "tests")]
from tests import test_modeling_common  # noqa: E402

MIXINS = {
    "ModelTesterMixin": "test_modeling_common",
    "GenerationTesterMixin": "generation.test_utils",
    "ConfigTester": "test_configuration_common",
    "ProcessorTesterMixin": "test_processing_common",
    "ImageProcessingTestMixin": "test_image_processing_common",
    "PipelineTesterMixin": "test_pipeline_mixin",
}

# The library's tables of its own models, by which the common tests tell apart what has a loss and what kind of labels
modeling_auto.MODEL_MAPPING_NAMES.update(setok="SetokModel", setokim="SetokimModel")

mixin_of = {}  # of each test's id


@pytest.fixture(autouse=True)
def library_tests(monkeypatch):
    """The library's tests open files of its repository, and draw inputs from a generator of their own."""
    monkeypatch.chdir(FOLDER)
    test_modeling_common.global_rng.seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        mixin_of[item.nodeid] = _mixin(item.name)
    if not (FOLDER / "tests" / "pipelines").is_dir():  # stand-ins, which know none of the tests that are changed here
        items[:] = [item for item in items if mixin_of[item.nodeid] not in ("own", "PipelineTesterMixin")]


def _mixin(name: str) -> str:
    for mixin, module in MIXINS.items():
        if hasattr(getattr(sys.modules.get(f"tests.{module}"), mixin, None), name):
            return mixin
    return "ConfigTester" if name.startswith("test_config") else "own"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Comes last of all."""
    yield
    outcomes = {}
    for outcome in ("skipped", "passed", "failed", "error"):  # the later of several outcomes (subtests) counts
        for report in terminalreporter.stats.get(outcome, ()):
            outcomes[report.nodeid] = "failed" if outcome == "error" else outcome
    counts = defaultdict(Counter)
    for nodeid, outcome in outcomes.items():
        counts[mixin_of.get(nodeid, "own")][outcome] += 1
    terminalreporter.write_sep("=", "transformers' common tests")
    terminalreporter.write_line(f"{'':26}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for mixin in (*MIXINS, "own"):
        numbers = "".join(f"{counts[mixin][outcome]:>8}" for outcome in ("passed", "failed", "skipped"))
        terminalreporter.write_line(f"{mixin:26}{numbers}" if counts[mixin] else f"{mixin:26}{'not run':>8}")
