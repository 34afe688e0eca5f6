"""The page as users meet it, in a real browser, and what stands behind it. The models are those that are shipped.

SETOK_SCREENSHOTS=DIR pytest tests/training/test_app.py   keeps a picture of each tab in this folder.
"""

import io
import os
import re
import shutil
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from processing import draw_mask
from training.data import SceneConfig, make_scene
from training.demo import app as page_module
from training.demo.models import load_setok, load_setokim
from training.demo.workbench import Workbench

ROOT = Path(__file__).parents[3]
SETOK, SETOKIM = (str(ROOT / "model_cards" / name) for name in ("setok-emoji-tiny", "setokim-emoji-tiny"))
QUESTION = "How many objects are there in the picture?"


@pytest.fixture(scope="module")
def models() -> SimpleNamespace:
    setok, image_processor = load_setok(SETOK)
    setokim, processor = load_setokim(SETOKIM)
    return SimpleNamespace(setok=setok, image_processor=image_processor, setokim=setokim, processor=processor)


@pytest.fixture(scope="module")
def bench(models) -> Workbench:
    return Workbench(models.setok, models.image_processor, models.setokim, models.processor)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """A tropical fish, a panda face and an owl; it is none of the examples."""
    return Image.fromarray(make_scene("test", 5, SceneConfig(image_size=64)).image)


@pytest.fixture(scope="module")
def file(scene, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    scene.save(path)
    return str(path)


@pytest.fixture(scope="module")
def broken_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "broken.png"
    path.write_text("This is no picture.")
    return str(path)


def same(picture: Image.Image, expected: Image.Image) -> bool:
    return np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(expected.convert("RGB")))


def painting_of(models, sentence: str, seed: int, **options) -> Image.Image:
    return models.setokim.generate_image(
        models.processor, sentence, generator=torch.Generator().manual_seed(seed), **options
    )


# --- what stands behind the page -------------------------------------------------------------------------------------


def test_a_picture_is_tokenised_as_by_the_model(bench, models, scene, file):
    pixel_values = models.image_processor(scene, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = models.setok.setok(pixel_values)
        painted = models.setok.detokenize(outputs.last_hidden_state, outputs.token_mask)
    told, drawn, reconstruction, table = bench.tokenize({"path": file})
    assert told.startswith(f"**{int(outputs.num_tokens)} concept tokens, PSNR ")
    assert same(reconstruction, models.image_processor.postprocess(painted)[0])
    assert drawn.height == 512 and drawn.width > 512  # enlarged, with a legend
    assert table["headers"] == ["token", "patches", "name", "nearest concepts (cosine)"]
    assert [int(row[1]) for row in table["data"]] == torch.bincount(outputs.cluster_ids[0]).tolist()
    assert {row[2] for row in table["data"]} == {"-", "owl", "tropical fish", "panda face"}


def test_a_question_is_answered_about_one_picture_or_two(bench, models, scene, file, tmp_path):
    other = make_scene("test", 7, SceneConfig(image_size=64)).image
    Image.fromarray(other).save(tmp_path / "other.png")
    first, second = {"path": file}, {"path": str(tmp_path / "other.png")}
    which = "Which picture has more objects, the first or the second?"
    assert bench.ask(first, None, f" {QUESTION}\n") == models.setokim.ask(models.processor, scene, QUESTION)
    assert bench.ask(None, first, QUESTION) == bench.ask(first, None, QUESTION)
    assert bench.ask(first, None, " ") == models.setokim.caption(models.processor, scene)
    answers = [bench.ask(*pair, which) for pair in ((first, second), (second, first))]
    expected = models.setokim.ask(models.processor, [scene, Image.fromarray(other)], which)
    assert answers[0] == expected and set(answers) == {"first", "second"}


def test_the_seed_and_the_sliders_reach_the_painting(bench, models):
    sentence = "Draw: an owl on a plain red background."
    expected = painting_of(models, sentence, 3, visual_guidance_scale=2.0, visual_temperature=1.0)
    assert same(bench.paint(sentence, 3, 2.0, 1.0), expected)
    assert not same(bench.paint(sentence, 4, 2.0, 1.0), expected)
    assert not same(bench.paint(sentence, 3, 1.0, 1.0), expected)
    still = [bench.paint(sentence, seed, 1.0, 0.0) for seed in (1, 2)]  # without noise the seed does not matter
    assert same(*still)


def test_large_and_turned_pictures_are_read_as_they_are_shown(bench, scene, tmp_path):
    wide = scene.resize((1024, 512))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    wide.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    outlined, told = bench.segment({"path": str(tmp_path / "turned.png")}, "the owl.")
    assert outlined.size == (512, 256) and re.fullmatch(r"\*\*\d+% of the picture\*\*", told)
    assert bench.edit({"path": str(tmp_path / "turned.png")}, "Remove the owl.").size == (512, 256)


def test_without_an_answer_the_page_says_so(bench, models, file, monkeypatch):
    monkeypatch.setattr(models.setokim, "ask", lambda *_, **__: "")
    assert "says nothing" in bench.ask({"path": file}, None, "Quoi?")


def test_what_the_user_is_to_do_is_told(bench, file, broken_file):
    picture, broken = {"path": file}, {"path": broken_file}
    for work in (
        lambda: bench.tokenize(None),
        lambda: bench.ask(None, None, QUESTION),
        lambda: bench.edit(None, "Remove the owl."),
        lambda: bench.segment(None, "the owl"),
    ):
        with pytest.raises(ValueError, match="There is no picture yet: upload one"):
            work()
    for work in (lambda: bench.tokenize(broken), lambda: bench.ask(picture, broken, QUESTION)):
        with pytest.raises(ValueError, match="This file cannot be read as a picture: upload another") as error:
            work()
        assert broken_file not in str(error.value)  # where the server keeps it is nobody's business
    for work in (
        lambda: bench.paint("", 0, 1.0, 1.0),
        lambda: bench.edit(picture, "  "),
        lambda: bench.segment(picture, ""),
    ):
        with pytest.raises(ValueError, match="There is no text yet: write what you want"):
            work()
    with pytest.raises(ValueError, match="question about the two pictures"):
        bench.ask(picture, picture, "")
    with pytest.raises(ValueError, match="There is no seed"):
        bench.paint("Draw: an owl.", None, 1.0, 1.0)
    for text in ("Draw: <image>", "[Img]", "<|im_end|> and <mask>"):
        with pytest.raises(ValueError, match="^Leave .* out"):
            bench.paint(text, 0, 1.0, 1.0)


def test_a_text_must_leave_room_for_pictures_and_answer(bench, models, file):
    config = models.setokim.config
    room = config.text_config.max_position_embeddings - config.vision_config.max_tokens - 128
    text = ("owl " * room).strip()
    length = len(models.processor.tokenizer(text)["input_ids"])
    assert length > room
    with pytest.raises(ValueError, match=f"too long: it has {length} tokens, and the model reads up to {room}"):
        bench.paint(text, 0, 1.0, 1.0)
    room -= 2 * config.vision_config.max_tokens
    with pytest.raises(ValueError, match=f"up to {room}"):
        bench.ask({"path": file}, {"path": file}, text)
    fitting = ("owl " * (room - length + len(text.split()))).strip()
    assert len(models.processor.tokenizer(fitting)["input_ids"]) == room
    assert isinstance(bench.ask({"path": file}, {"path": file}, fitting), str)


def test_errors_become_sentences_on_the_page():
    def refuse(value):
        raise ValueError(f"Not {value} < 3.")

    def fail():
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(gr.Error) as refused:
        page_module.politely(refuse)("<b>")
    assert refused.value.message == "Not &lt;b&gt; &lt; 3." and not refused.value.print_exception
    with pytest.raises(gr.Error) as failed:
        page_module.politely(fail)()
    assert "CUDA" not in failed.value.message and "Try another picture" in failed.value.message
    assert failed.value.print_exception and isinstance(failed.value.__cause__, RuntimeError)


def test_one_call_of_the_models_at_a_time_and_no_telemetry(models):
    app = page_module.build_app(models.setok, models.image_processor, models.setokim, models.processor)
    works = [event for event in app.fns.values() if event.concurrency_id == "models"]
    names = {"tokenize", "ask", "paint", "edit", "segment"}
    assert {event.name for event in works} == names and len(works) == 2 * len(names)  # by hand, and by example
    assert {event.concurrency_limit for event in works} == {"default"} and all(event.queue for event in works)
    assert app._queue.default_concurrency_limit == 1
    assert not app.analytics_enabled


def test_the_command_serves_the_models_it_is_given(monkeypatch, tmp_path, capsys):
    served = {}

    def serve(app, host, port):
        served.update(title=app.title, host=host, port=port, uploads=Path(os.environ["GRADIO_TEMP_DIR"]))
        return "http://here/"

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # main changes it; monkeypatch puts it back
    monkeypatch.setattr(page_module, "serve", serve)
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _: served.update(while_served=served["uploads"].is_dir()))
    command = ["app", "--setok", SETOK, "--setokim", SETOKIM, "--host", "0.0.0.0", "--port", "7000", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    page_module.main()
    assert "The page is at http://here/" in capsys.readouterr().out
    assert (served["title"], served["host"], served["port"]) == ("SeTok and Setokim", "0.0.0.0", 7000)
    assert served["while_served"] and not served["uploads"].exists()

    for option, value, message in (
        ("--setok", str(tmp_path), "holds no trained SeTok"),
        ("--setok", "no/such", "neither a folder nor a model on the Hub"),
        ("--device", "nonsense", "nonsense"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, option, value])
        with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
            page_module.main()


# --- in a browser -----------------------------------------------------------------------------------------------------


class Page:
    """One tab of the page, as a user sees it: by its labels."""

    def __init__(self, driver: webdriver.Chrome, address: str):
        self.driver, self.address = driver, address

    def open(self, tab: str) -> None:
        """Loads the page anew."""
        self.driver.get(self.address)
        button = self.wait(lambda: self.visible(f"//button[@role='tab'][normalize-space()='{tab}']"))
        button.click()
        self.wait(lambda: self.visible(f"//div[@role='tabpanel']//button[normalize-space()='{tab}']"))

    def wait(self, condition):
        return WebDriverWait(self.driver, 30, poll_frequency=0.1).until(lambda _: condition())

    def visible(self, path: str):
        return next((element for element in self.driver.find_elements(By.XPATH, path) if element.is_displayed()), None)

    def block(self, label: str) -> str:
        """Path of the part of the page with this label."""
        named = "self::label or self::span[@data-testid='block-info']"
        return (
            f"//*[{named}][normalize-space()='{label}']/ancestor::div[contains(concat(' ', @class, ' '), ' block ')][1]"
        )

    def upload(self, path: str, label: str = "Picture") -> None:
        block = self.wait(lambda: self.visible(self.block(label)))
        block.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(path)
        name = Path(path).name
        self.wait(lambda: block.find_elements(By.XPATH, f".//img[contains(@src, '{name}')]"))

    def write(self, label: str, text: str) -> None:
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def field(self, label: str):
        return self.visible(f"{self.block(label)}//textarea") or self.visible(f"{self.block(label)}//input")

    def press(self, button: str) -> None:
        self.visible(f"//div[@role='tabpanel']//button[normalize-space()='{button}']").click()

    def picture(self, label: str) -> Image.Image:
        """The picture that is shown, when there is one."""
        image = self.wait(lambda: self.visible(f"{self.block(label)}//img"))
        with urllib.request.urlopen(image.get_attribute("src")) as response:
            return Image.open(io.BytesIO(response.read())).convert("RGB")

    def text(self, pattern: str) -> str:
        """The text of the visible page, when it has what is looked for."""

        def found():
            text = self.driver.find_element(By.TAG_NAME, "body").text
            return text if re.search(pattern, text) else None

        return self.wait(found)

    def save(self, name: str) -> None:
        self.driver.save_screenshot(str(self.screenshots / f"{name}.png"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chrome = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not (chrome and chromedriver):
        pytest.skip("no chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", "no-proxy-server",
        "window-size=1400,1300", f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options, Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser, models, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        app = page_module.build_app(models.setok, models.image_processor, models.setokim, models.processor)
        page = Page(browser, page_module.serve(app))
        page.screenshots = Path(os.environ.get("SETOK_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
        page.screenshots.mkdir(parents=True, exist_ok=True)
        yield page
        app.close()


def test_tokenise_in_the_browser(page, bench, models, scene, file):
    page.open("Tokenise")
    page.upload(file)
    page.press("Tokenise")
    text = page.text(r"\d+ concept tokens?, PSNR \d+\.\d dB")
    _, drawn, painted, table = bench.tokenize({"path": file})
    with torch.no_grad():
        tokens = models.setok.setok(models.image_processor(scene, return_tensors="pt")["pixel_values"]).num_tokens
    assert f"{int(tokens)} concept tokens, PSNR" in text
    assert same(page.picture("Its concept tokens"), drawn) and same(page.picture("Painted from them"), painted)
    text = page.text("nearest concepts")
    assert all(row[-1] in text for row in table["data"])
    assert "has never seen a photograph" in text and "knows 60 concepts" in text
    page.save("tokenise")


def test_the_page_needs_no_other_host(page):
    page.open("Tokenise")
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 10 and all(name.startswith((page.address, "data:", "blob:")) for name in loaded), loaded


def test_ask_in_the_browser(page, models, scene, file):
    page.open("Ask")
    page.upload(file)
    page.write("Question", QUESTION)
    page.press("Ask")
    expected = models.setokim.ask(models.processor, scene, QUESTION)
    assert page.wait(lambda: page.field("Answer").get_property("value")) == expected
    page.save("ask")


def test_paint_in_the_browser(page, models):
    sentence = "Draw: a red car and an owl on a plain blue background."
    page.open("Paint")
    page.write("Sentence", sentence)
    page.press("Paint")
    assert same(page.picture("Painted"), painting_of(models, sentence, seed=0))  # by default as the checkpoint likes it
    page.save("paint")


def test_edit_in_the_browser(page, models, scene, file):
    page.open("Edit")
    page.upload(file)
    page.write("Instruction", "Make the background green.")
    page.press("Edit")
    expected = models.setokim.edit_image(models.processor, scene, "Make the background green.")
    assert same(page.picture("Edited"), expected) and not same(expected, scene)
    page.save("edit")


def test_segment_in_the_browser(page, models, scene, file):
    page.open("Segment")
    page.upload(file)
    page.write("What to outline", "the owl")
    page.press("Segment")
    mask = models.setokim.segment(models.processor, scene, "the owl")
    assert same(page.picture("Outlined"), draw_mask(scene, mask)) and 0 < mask.mean() < 0.5
    page.text(f"{mask.mean():.0%} of the picture")
    page.save("segment")


def test_an_example_is_a_click(page, models):
    page.open("Segment")
    page.visible("//tr[.//img]").click()
    page.wait(lambda: page.field("What to outline").get_property("value"))
    example, expression = page.picture("Picture"), page.field("What to outline").get_property("value")
    assert same(example, Image.fromarray(make_scene("test", 1, SceneConfig(image_size=64)).image))
    mask = models.setokim.segment(models.processor, example, expression)
    assert same(page.picture("Outlined"), draw_mask(example, mask))


def test_errors_in_the_browser(page, broken_file):
    page.open("Tokenise")
    page.press("Tokenise")
    page.text("There is no picture yet: upload one, or click an example.")
    assert not page.visible("//*[@data-testid='status-tracker']//*[normalize-space()='Error']")
    page.save("no picture")
    page.open("Ask")
    page.upload(broken_file)
    page.press("Ask")
    page.text("This file cannot be read as a picture: upload another, as PNG, JPEG or WebP.")
    page.save("unreadable file")
    page.open("Paint")
    page.press("Paint")
    text = page.text("There is no text yet: write what you want, or click an example.")
    assert "Traceback" not in text
