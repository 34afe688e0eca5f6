"""The page as users meet it, in a real browser. The models are those that are shipped.

SETOK_SCREENSHOTS=DIR pytest tests/training/demo/test_app.py   keeps a picture of each tab in this folder.
"""

import io
import os
import re
import shutil
import signal
import sys
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.training.demo.demo_testing import SETOK, painting_of, same
from training.data import SceneConfig, make_scene
from training.demo import app as page_module
from training.demo import photographs
from training.demo.knowledge import NOT_WRITTEN
from training.demo.models import load_setokim
from training.demo.pictures import load_photographs, outline
from training.demo.tabs import politely

QUESTION = "How many objects are there in the picture?"


def example_scene(index: int) -> Image.Image:
    return Image.fromarray(make_scene("test", index, SceneConfig(image_size=64)).image)


def test_errors_become_sentences_on_the_page():
    def refuse(value):
        raise ValueError(f"Not {value} < 3.")

    def fail():
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(gr.Error) as refused:
        politely(refuse)("<b>")
    assert refused.value.message == "Not &lt;b&gt; &lt; 3." and not refused.value.print_exception
    with pytest.raises(gr.Error) as failed:
        politely(fail)()
    assert "CUDA" not in failed.value.message and "Try another picture" in failed.value.message
    assert failed.value.print_exception and isinstance(failed.value.__cause__, RuntimeError)


def test_one_call_of_the_models_at_a_time_and_no_telemetry(models, photograph_model):
    parts = models.setok, models.image_processor, models.setokim, models.processor
    app = page_module.build_app(*parts, photograph_model=photograph_model)
    works = [event for event in app.fns.values() if event.concurrency_id == "models"]
    names = {"photograph", "tokenize", "ask", "paint", "edit", "segment"}
    assert {event.name for event in works} == names and len(works) == 2 * len(names)  # by hand, and by example
    assert {event.concurrency_limit for event in works} == {"default"} and all(event.queue for event in works)
    assert app._queue.default_concurrency_limit == 1
    assert not app.analytics_enabled


def test_a_page_of_models_of_other_data_says_so(models, setokim_folder):
    setokim, processor = load_setokim(str(setokim_folder))
    app = page_module.build_app(models.setok, models.image_processor, setokim, processor)
    texts = [block.value for block in app.blocks.values() if isinstance(block, gr.Markdown)]
    assert texts.count(NOT_WRITTEN) == 4 and not any("It understands" in text for text in texts)
    assert any("knows 60 concepts" in text for text in texts)  # the SeTok is another
    tabs = [block.label for block in app.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Tokenise", "Ask", "Paint", "Edit", "Segment"]
    assert page_module.WITHOUT_PHOTOGRAPHS in texts[0] and "`make demo`" in texts[0]


def test_the_command_serves_the_models_it_is_given(setokim_emoji_tiny, monkeypatch, tmp_path, capsys):
    served = {}

    def serve(app, host, port, names, uploads):
        served.update(title=app.title, host=host, port=port, names=names, uploads=Path(os.environ["GRADIO_TEMP_DIR"]))
        assert Path(uploads.path) == served["uploads"] and uploads.examples
        return "http://here/"

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # main changes it; monkeypatch puts it back
    monkeypatch.setattr(page_module, "serve", serve)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _: served.update(while_served=served["uploads"].is_dir()))
    command = ["app", "--setok", SETOK, "--setokim", str(setokim_emoji_tiny), "--host", "0.0.0.0", "--port", "7000"]
    command += ["--device", "cpu", "--names", "a.example", "b.example", "--photograph_model", str(tmp_path / "none")]
    monkeypatch.setattr(sys, "argv", command)
    page_module.main()
    printed = capsys.readouterr().out
    assert "The page is at http://here/" in printed and page_module.WITHOUT_PHOTOGRAPHS in printed
    assert (served["title"], served["host"], served["port"]) == ("SeTok and Setokim", "0.0.0.0", 7000)
    assert served["names"] == ["a.example", "b.example"]
    assert served["while_served"] and not served["uploads"].exists()

    for option, value, message in (
        ("--setok", str(tmp_path), "holds no trained SeTok"),
        ("--setok", "no/such", "neither a folder nor a model on the Hub"),
        ("--device", "nonsense", "nonsense"),
        ("--time_limit", "nan", "time_limit must be a positive number of seconds"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, option, value])
        with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
            page_module.main()


def test_ports_and_names_that_cannot_be_are_refused():
    with gr.Blocks(analytics_enabled=False) as app:
        for options, message in (
            ({"port": 70_000}, "port must be a number from 1 to 65535, got 70000"),
            (
                {"names": ["http://demo.example"]},
                "names must be such as demo.example.org, .* got 'http://demo.example'",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                page_module.serve(app, **options)


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
        """In place of the picture that is there."""
        block = self.wait(lambda: self.visible(self.block(label)))
        self.remove_picture(label)
        self.wait(lambda: block.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        block.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(path)
        name = Path(path).name
        self.wait(lambda: block.find_elements(By.XPATH, f".//img[contains(@src, '{name}')]"))

    def remove_picture(self, label: str = "Picture") -> None:
        remove = f"{self.block(label)}//button[@aria-label='Remove Image']"
        self.wait(lambda: self.visible(remove)).click()
        self.wait(lambda: not self.visible(remove))

    def write(self, label: str, text: str) -> None:
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def field(self, label: str):
        return self.visible(f"{self.block(label)}//textarea") or self.visible(f"{self.block(label)}//input")

    def press(self, button: str) -> None:
        self.visible(f"//div[@role='tabpanel']//button[normalize-space()='{button}']").click()

    def value(self, label: str) -> str:
        return self.field(label).get_property("value")

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
def page(browser, models, photograph_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(photographs, "LAYERS", (1, 2))
        parts = models.setok, models.image_processor, models.setokim, models.processor
        app = page_module.build_app(*parts, photograph_model=photograph_model)
        page = Page(browser, page_module.serve(app))
        page.screenshots = Path(os.environ.get("SETOK_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
        page.screenshots.mkdir(parents=True, exist_ok=True)
        yield page
        app.close()


def test_the_first_tab_shows_a_photograph_and_its_tokens(page, photograph_model):
    page.driver.get(page.address)
    astronaut = page.picture("Photograph")
    patches = photograph_model.encode(astronaut, [1, 2])
    assert same(astronaut, load_photographs()[0].image)

    def shown(layer, num_neighbors):
        tokens = photograph_model.cluster(patches, num_neighbors, layer)
        page.text(rf"{tokens.counts} \(16 x 16\)\nClustered: layer {layer}")
        page.wait(lambda: same(page.picture("Its tokens"), photographs.draw_tokens(astronaut, tokens)))

    shown(layer=2, num_neighbors=4)
    page.save("first screen, photograph")
    page.visible("//label[normalize-space()='1'][.//input[@type='radio']]").click()
    shown(layer=1, num_neighbors=4)
    number = page.visible("//input[@type='number']")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("30")
    page.press("Tokenise the photograph")
    shown(layer=1, num_neighbors=30)


@pytest.mark.parametrize("tab", ["Tokenise", "Ask", "Paint", "Edit", "Segment"])
def test_each_tab_opens_with_an_example_and_its_result(page, bench, models, tab):
    page.open(tab)
    page.text("60 things and 11 colours of backgrounds that it knows")
    example = None if tab == "Paint" else page.picture("Picture")
    if tab == "Tokenise":
        assert same(example, example_scene(1))
        tokens = models.setok.setok(models.image_processor(example, return_tensors="pt")["pixel_values"]).num_tokens
        text = page.text("nearest concepts")
        assert f"{int(tokens)} concept tokens, PSNR" in text and "owl" in text
        assert page.picture("Its concept tokens").height == 512
        assert page.picture("Painted from them").size == (64, 64)
    elif tab == "Ask":
        assert same(example, example_scene(1)) and page.value("Question") == "Describe the picture."
        assert page.value("Answer") == models.setokim.caption(models.processor, example) != ""
        page.text("How many .* are there in the picture")
    elif tab == "Paint":
        assert page.value("Sentence").startswith("Draw: a red car")
        assert same(page.picture("Painted"), painting_of(models, page.value("Sentence"), seed=0))
        page.text("Make a picture of: ")
    elif tab == "Edit":
        instruction = page.value("Instruction")
        assert same(page.picture("Edited"), models.setokim.edit_image(models.processor, example, instruction))
        page.text("Make the background ")
    else:
        mask = models.setokim.segment(models.processor, example, page.value("What to outline"))
        assert same(page.picture("Outlined"), outline(example, mask, 512))
        page.text(f"{mask.mean():.0%} of the picture")
    page.save(f"first screen, {tab.lower()}")


def test_small_pictures_are_shown_without_blur_and_what_it_knows_is_a_click_away(page):
    page.open("Paint")
    page.picture("Painted")
    image = page.visible(f"{page.block('Painted')}//img")
    page.wait(lambda: image.value_of_css_property("image-rendering") == "pixelated")
    text = page.text("60 things and 11 colours")
    assert "top hat" not in text
    page.visible("//button[contains(normalize-space(), 'that it knows')]").click()
    text = page.text("Backgrounds: plain, shaded, mottled; white, gray")
    assert "60 things: red apple, pear, lemon" in text and "purple heart, top hat." in text
    page.save("what it knows")


def test_tokenise_in_the_browser(page, bench, models, scene, file):
    page.open("Tokenise")
    page.upload(file)
    page.press("Tokenise")
    drawn, painted, table, told = bench.tokenize({"path": file})
    page.wait(lambda: same(page.picture("Its concept tokens"), drawn))
    assert same(page.picture("Painted from them"), painted)
    text = page.text(f"{told.split(',')[0]}, PSNR")
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
    page.wait(lambda: page.value("Answer") == expected)
    page.save("ask")


def test_no_empty_answer_is_ever_shown(page):
    page.open("Ask")
    page.write("Question", "Who is she?")
    page.press("Ask")
    page.text(
        'The model says nothing to this.\nThe model does not know "who" and "she". It knows:\n60 things: red apple'
    )
    assert not page.visible(page.block("Answer"))
    page.save("no answer")
    page.write("Question", "Is there an owl in the picture?")
    page.press("Ask")
    page.wait(lambda: page.visible(page.block("Answer")) and page.value("Answer") == "yes")
    assert "says nothing" not in page.text("Ask")


def test_unknown_words_are_answered_with_what_it_knows(page):
    page.open("Paint")
    page.write("Sentence", "Draw: a zebra on a plain red background.")
    page.press("Paint")
    page.text('The model does not know "zebra". It knows:\n60 things: red apple')
    assert not page.visible(page.block("Painted"))
    page.save("unknown word")


def test_paint_in_the_browser(page, models):
    sentence = "Draw: a red car and an owl on a plain blue background."
    page.open("Paint")
    page.write("Sentence", sentence)
    page.press("Paint")
    expected = painting_of(models, sentence, seed=0)  # by default as the checkpoint likes it
    page.wait(lambda: same(page.picture("Painted"), expected))
    page.save("paint")


def test_edit_in_the_browser(page, models, scene, file):
    page.open("Edit")
    page.upload(file)
    page.write("Instruction", "Make the background green.")
    page.press("Edit")
    expected = models.setokim.edit_image(models.processor, scene, "Make the background green.")
    page.wait(lambda: same(page.picture("Edited"), expected))
    assert not same(expected, scene)
    page.save("edit")


def test_segment_in_the_browser(page, models, scene, file):
    page.open("Segment")
    page.upload(file)
    page.write("What to outline", "the owl")
    page.press("Segment")
    mask = models.setokim.segment(models.processor, scene, "the owl")
    page.wait(lambda: same(page.picture("Outlined"), outline(scene, mask, 512)))
    assert 0 < mask.mean() < 0.5
    page.text(f"{mask.mean():.0%} of the picture")
    page.save("segment")


def test_an_example_is_a_click(page, models):
    page.open("Segment")
    rows = [row for row in page.driver.find_elements(By.XPATH, "//tr[.//img]") if row.is_displayed()]
    rows[1].click()
    page.wait(lambda: same(page.picture("Picture"), example_scene(2)))
    mask = models.setokim.segment(models.processor, example_scene(2), page.value("What to outline"))
    page.wait(lambda: same(page.picture("Outlined"), outline(example_scene(2), mask, 512)))


def test_errors_in_the_browser(page, broken_file):
    page.open("Tokenise")
    page.remove_picture()
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
    page.write("Sentence", " ")
    page.press("Paint")
    text = page.text("There is no text yet: write what you want, or click an example.")
    assert "Traceback" not in text
