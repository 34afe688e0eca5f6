"""What attackers, and users by mistake, send to the page: all of it through HTTP."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from tests.robustness.campaign import peak_memory
from tests.training.demo.demo_testing import ROOT
from tests.training.demo.page_visitor import API, Visitor
from training.demo import app as page_module
from training.demo import workbench

REMOVE = "Remove the owl."
NO_FILE = "There is no such picture on this page, or no longer: upload it again."


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def visitor(models, uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        app = page_module.build_app(models.setok, models.image_processor, models.setokim, models.processor)
        yield Visitor(page_module.serve(app))
        app.close()


@pytest.fixture
def empty_page(tmp_path, monkeypatch):
    """Serves a page without models; with the arguments of `serve`."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks(analytics_enabled=False) as app:
        gr.Image(Image.new("RGB", (3, 3)), format="png")
    yield lambda **options: Visitor(page_module.serve(app, **options))
    app.close()


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture of somebody who runs the page."""
    Image.effect_noise((64, 64), 100).save(tmp_path / "private.png")
    return tmp_path / "private.png"


def check_that_it_still_works(visitor, file):
    went_well, (answer, _) = visitor.call("ask", visitor.uploaded(file), None, "Is there an owl in the picture?")
    assert went_well and answer["value"] == "yes"


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_uploaded_picture_is_edited_and_the_result_can_be_fetched(visitor, file):
    went_well, (edited, _) = visitor.call("edit", visitor.uploaded(file), REMOVE)
    assert went_well
    assert Image.open(visitor.file(edited["value"]["path"])).size == (64, 64)


def test_no_other_file_is_given_out(visitor, uploads, private, file):
    (uploads / "link.png").symlink_to(private)
    (uploads / "folder").symlink_to(private.parent)
    os.mkfifo(uploads / "pipe.png")
    paths = [private, private.parent, private.with_name("missing.png"), "/dev/zero", "/etc/passwd", "", "a\0b.png"]
    paths += [uploads, uploads / "link.png", uploads / "folder" / "private.png", uploads / "pipe.png"]
    paths += [uploads / ".." / private.parent.name / "private.png", f"file://{private}", uploads / ("a" * 5000)]
    paths += ["http://127.0.0.1:9/private.png", f"{uploads}-other/private.png"]
    for path in map(str, paths):
        for file in (
            {"path": path},
            {"path": path, "meta": {"_type": "gradio.FileData"}},
            {"path": path, "is_stream": True, "url": path},
        ):
            assert visitor.call("edit", file, REMOVE) == (False, NO_FILE)
        for function, *data in (
            ("tokenize", {"path": path}),
            ("segment", {"path": path}, "the owl"),
            ("ask", visitor.uploaded(private), {"path": path}, "Which picture has more objects?"),
        ):
            assert visitor.call(function, *data) == (False, NO_FILE)
        if path.isascii() and path.isprintable():
            response = visitor.file(path)
            # without a path, or with "..", it is another address
            assert response.status_code == 404
            assert response.json()["detail"] in (NO_FILE, "The page has nothing at this address.")


def test_a_pipe_or_a_device_stops_nobody(visitor, uploads, tmp_path, file):
    os.mkfifo(tmp_path / "pipe.png")
    visitor.http.timeout = 15
    for path in (tmp_path / "pipe.png", "/dev/stdin", "/dev/random"):
        assert visitor.call("edit", {"path": str(path)}, REMOVE) == (False, NO_FILE)
    check_that_it_still_works(visitor, file)


def test_addresses_that_the_page_does_not_use_are_closed(visitor, file):
    for method, path in (
        ("GET", "proxy=http://127.0.0.1:9/"), ("GET", "file=http://127.0.0.1:9/"), ("POST", "process_recording"),
        ("POST", "component_server"), ("GET", "run-history/buckets"), ("POST", "vibe-edit"), ("POST", "cancel"),
        ("GET", "deep_link?session_hash=a"), ("POST", "api/edit"), ("GET", "queue/status"),
    ):  # fmt: skip
        response = visitor.http.request(method, f"{API}/{path}", json={"data": []} if method == "POST" else None)
        assert response.status_code == 404, path
        assert response.json()["detail"] in (NO_FILE, "The page has nothing at this address.")
    assert visitor.http.get("/monitoring").status_code == 404
    assert visitor.http.request("DELETE", "/").json()["detail"].startswith("The page takes GET, POST, HEAD requests")
    # past the queue
    response = visitor.http.post(f"{API}/run/edit", json={"data": [visitor.uploaded(file), REMOVE], "fn_index": 1})
    assert response.status_code == 404


# --- sizes and times --------------------------------------------------------------------------------------------------


def flat_png(width: int, height: int) -> bytes:
    """A picture of four channels that takes a few bytes."""
    packer = zlib.compressobj(1)
    row = bytes(1 + 4 * width)
    data = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def test_a_small_file_cannot_take_the_memory(visitor, tmp_path, file):
    (tmp_path / "large.png").write_bytes(flat_png(13_300, 13_300))
    large, before = visitor.uploaded(tmp_path / "large.png"), peak_memory()
    for function, *text in (("tokenize",), ("edit", REMOVE), ("segment", "the owl")):
        went_well, told = visitor.call(function, large, *text)
        assert not went_well and "upload another, as PNG, JPEG or WebP, of up to 25 million pixels" in told
    assert peak_memory() - before < 2**28
    check_that_it_still_works(visitor, file)


def test_uploads_have_a_limit_and_nothing_of_larger_ones_stays(visitor, uploads):
    before = set(uploads.rglob("*"))
    response = visitor.upload(bytes(65 * 2**20))
    assert response.status_code == 413 and response.json()["detail"].startswith("A picture may have 64 MiB")
    response = visitor.http.post(f"{API}/upload", content=iter([b"endless"]))  # no Content-Length
    assert response.status_code == 411 and "Content-Length" in response.json()["detail"]
    assert set(uploads.rglob("*")) == before


def test_a_full_folder_takes_no_more(empty_page, tmp_path):
    from training.demo.uploads import UploadFolder

    visitor = empty_page(uploads=UploadFolder(tmp_path, room=10_000))
    assert visitor.upload(bytes(2_000)).status_code == 200
    response = visitor.upload(bytes(8_000))
    assert response.status_code == 507 and "no room" in response.json()["detail"]


def test_files_go_after_a_while_and_examples_stay(empty_page, tmp_path):
    from training.demo.uploads import UploadFolder

    (example,) = (path for path in tmp_path.rglob("*") if path.is_file())
    (tmp_path / "tmp_interrupted").write_bytes(b"half an upload")
    os.utime(tmp_path / "tmp_interrupted", (0, 0))
    uploads = UploadFolder(tmp_path, keep=1)
    uploads.clear_regularly()
    visitor = empty_page(uploads=uploads)
    file = tmp_path / "tmp_later"
    file.write_bytes(b"half an upload")
    (path,) = visitor.upload(b"not for ever").json()
    assert visitor.file(path).content == b"not for ever"
    deadline = time.monotonic() + 20
    while Path(path).exists() or file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert visitor.file(path).json()["detail"] == NO_FILE
    assert visitor.file(example).status_code == 200


def test_a_call_that_hangs_is_given_up_and_others_go_on(models, tmp_path, file, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    read = workbench.read_picture

    def read_or_hang(path, image_processor):
        if Path(path).name == "hangs.png":
            time.sleep(20)
        return read(path, image_processor)

    monkeypatch.setattr(workbench, "read_picture", read_or_hang)
    parts = models.setok, models.image_processor, models.setokim, models.processor
    app = page_module.build_app(*parts, time_limit=3.0)
    try:
        visitor = Visitor(page_module.serve(app))
        (hangs,) = visitor.upload(Path(file).read_bytes(), "hangs.png").json()
        start = time.monotonic()
        assert visitor.call("edit", {"path": hangs}, REMOVE) == (
            False,
            "After 3 seconds this was given up: try a smaller picture or fewer words.",
        )
        check_that_it_still_works(visitor, file)
        assert time.monotonic() - start < 15
    finally:
        app.close()


# --- names ------------------------------------------------------------------------------------------------------------


def status_for(visitor, host) -> int:
    return visitor.http.get("/config", headers={"Host": host}).status_code


def test_foreign_names_are_refused(visitor):
    port = visitor.http.base_url.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "8.8.8.8",
    ):
        response = visitor.http.get("/config", headers={"Host": host})
        assert response.status_code == 421 and "--names" in response.json()["detail"], host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST"):
        assert status_for(visitor, host) == 200


def test_a_page_for_the_network_has_addresses_and_the_names_it_is_given(empty_page):
    visitor = empty_page(host="0.0.0.0", names=["demo.example"])
    for host in ("192.168.0.7:7860", "[::1]:7860", "demo.example", "localhost:7860"):
        assert status_for(visitor, host) == 200
    for host in ("other.example", "evil.demo.example", "1.2.3"):
        assert status_for(visitor, host) == 421


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_broken_requests_are_answered_in_a_sentence(visitor, file, capfd):
    picture = visitor.uploaded(file)
    for address, body, sentence in (
        ("call/paint", b"", "must be JSON"),
        ("call/paint", b"{", "must be JSON"),
        ("call/paint", b"[" * 100_000, "must be JSON"),
        ("call/paint", b"\xff\xfe", "must be JSON"),
        ("call/paint", b"[]", 'a list "data"'),
        ("call/paint", b'{"data": null}', 'a list "data"'),
        ("call/paint", b'{"data": ["owl"]}', "must hold 4 values (Sentence, Seed, Guidance, Temperature), and holds 1"),
        ("call/paint", b'{"data": [["owl"], 0, 1, 1]}', "Sentence must be a text"),
        ("call/paint", b'{"data": [{}, 0, 1, 1]}', "Sentence must be a text"),
        ("call/tokenize", b'{"data": ["/etc/passwd"]}', NO_FILE),
        ("call/tokenize", b'{"data": [{"path": 5}]}', NO_FILE),
        ("call/tokenize", rb'{"data": [{"path": "\ud800"}]}', NO_FILE),
        ("call/tokenize", b'{"data": [{"url": "data:image/png;base64,"}]}', NO_FILE),
        ("call/nothing", b'{"data": []}', "no such function"),
        ("queue/join", b'{"data": [], "fn_index": 999}', "no such function"),
        ("queue/join", b'{"data": [], "fn_index": -1}', "no such function"),
        ("queue/join", b'{"data": [], "fn_index": "0"}', "no such function"),
        ("call/tokenize", b'{"data": [null], "session_hash": 5}', "session_hash"),
        ("call/tokenize", b'{"data": [null], "session_hash": "' + b"a" * 100 + b'"}', "session_hash"),
        ("call/paint", b'{"data": ["' + b"owl " * 100_000 + b'", 0, 1, 1]}', "256 KiB"),
    ):
        response = visitor.http.post(f"{API}/{address}", content=body, headers={"Content-Type": "application/json"})
        assert 400 <= response.status_code < 500, body[:60]
        assert sentence in response.json()["detail"]
    for values, sentence in (
        (["owl " * 5_000, 0, 1, 1], "This text is too long: it has"),
        ([7, 0, 1, 1], "This is no text, but 7"),
        ([None, 0, 1, 1], "This is no text, but None"),
        (["\ud800", 0, 1, 1], "This is no text"),
        (["<|im_end|>", 0, 1, 1], "out: to the model this is no text"),
        (["an owl", "one", 1, 1], "The seed must be a number from 0 to 4294967295, not "),
        (["an owl", -1, 1, 1], "The seed must be"),
        (["an owl", 0, None, 1], "The guidance must be a number from 1 to 10, not None"),
        (["an owl", 0, 1, float("nan")], "The temperature must be a number from 0 to 2, not nan"),
        (["an owl", 0, 1, 1e308], "The temperature must be"),
    ):
        body = json.dumps({"data": values})
        response = visitor.http.post(f"{API}/call/paint", content=body, headers={"Content-Type": "application/json"})
        went_well, told = visitor.result_of("paint", response)
        assert not went_well and sentence in told.replace("&lt;", "<").replace("&gt;", ">")
    assert visitor.call("ask", picture, None, 5)[0] is False
    response = visitor.http.post(f"{API}/upload", content=b"no parts", headers={"Content-Type": "multipart/form-data"})
    assert response.status_code == 400 and response.text
    response = visitor.http.post(f"{API}/upload", data={"files": "a text"}, files={"other": b""})
    assert response.status_code == 400 and "each with its name" in response.json()["detail"]
    check_that_it_still_works(visitor, file)
    assert capfd.readouterr().err.count("Traceback") == 1  # of the last upload


def test_an_example_that_is_none_is_refused(visitor):
    config = visitor.http.get("/config").json()
    direct = [entry["id"] for entry in config["dependencies"] if entry["queue"] is False]
    assert direct
    for index in (-1, 99, "a", None, 0.5):
        response = visitor.http.post(f"{API}/run/predict", json={"data": [index], "fn_index": direct[0]})
        assert response.status_code == 400 and "examples: give the number of one" in response.json()["detail"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_nothing_of_users_stays_when_the_page_is_ended(tmp_path, file, end):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "training.demo.app", "--device", "cpu"]
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
    # A shell has what it runs in the background ignore Ctrl+C, and what that starts
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, preexec_fn=heard, **options) as process:
        try:
            address = process.stdout.readline().split("The page is at ")[1].split(";")[0]
            picture = Visitor(address).uploaded(file)
            assert Path(picture["path"]).is_file() and tmp_path in Path(picture["path"]).parents
            process.send_signal(end)
            process.wait(timeout=20)
        finally:
            process.kill()
    assert not Path(picture["path"]).exists() and not list(tmp_path.glob("setok-app-*"))
