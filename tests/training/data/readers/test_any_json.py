"""Whatever stands in a file, a reader gives rows that can be trained on, or says what is wrong and where."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings

from processing import SetokimProcessor
from tests.any_json import any_json, like
from tests.reader_testing import FORMATS, write_pictures
from tests.row_testing import are_trainable
from tests.setokim_testing import tiny_processor

KEYS = (
    "image images masks messages conversations caption labels label concepts role content from value type text task id "
    "file_name annotations categories name image_id category_id segmentation counts size ann_id split sentences sent "
    "instruction input output edited_image "
    "questions question question_id answer answers multiple_choice_answer question_type imageId types structural "
    "choices correct_choice_idx direct_answers url width height regions phrase x y qas area point_coords"
).split()


@pytest.fixture(scope="module")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("rows"))


def check(name: str, content: object, root: Path, processor: SetokimProcessor) -> None:
    """Refused, skipped or read, as it says on the tin: what is refused has a name, what is read can be trained on."""
    load, _, files = FORMATS[name]
    found = {}
    for on_error in ("raise", "skip"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                found[on_error] = load(root, content, on_error)
            except ValueError as error:
                assert any(file in str(error) for file in files), error
    for rows in found.values():
        assert are_trainable(rows, processor)
    if "raise" in found:
        assert len(found["skip"]) == len(found["raise"])


@pytest.mark.parametrize("name", FORMATS)
def test_good_content_is_read(name, root, processor):
    load, good, _ = FORMATS[name]
    assert are_trainable(load(root, good, "raise"), processor)


@pytest.mark.parametrize("num_files", [30, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, num_files, root, processor):
    @settings(max_examples=num_files, derandomize=True, deadline=None, database=None)
    @given(content=like(FORMATS[name][1]) | any_json(KEYS))
    def judge(content):
        check(name, content, root, processor)

    judge()
