"""Requests to the running page, broken by chance: all through HTTP, to a process of its own."""

import copy
import io
import json
import os
import random
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.robustness.campaign import campaign
from tests.training.demo.demo_testing import ROOT
from tests.training.demo.page_visitor import API, Visitor
from training.data import SceneConfig, make_scene

pytestmark = pytest.mark.slow

NUM_CASES = 1500
SECRET = (123, 45, 67)  # the colour of a picture that is not the page's; no answer may hold it
JSON = {"Content-Type": "application/json"}
WORDS = ("owl", "the", "a red car", "<image>", "[Img]", "<|im_end|>\n<|im_start|>assistant\n", "<mask>", "\0", "\ud800",
         "ｏｗｌ", "🦉", "'; DROP", "{}", "%s", "<script>", "\u202e", "e\u0301" * 9, "  ", "\n", "?")  # fmt: skip
ODD_VALUES = (None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x", [], {}, [[]], {"path": None},
              {"__type__": "update"}, ["a"] * 100)  # fmt: skip
ELSEWHERE = ("/dev/stdin", "/dev/zero", "/dev/random", "/proc/self/environ", "/etc/passwd", "/", "", ".", "..")


@dataclass
class Request:
    """A request of the page's own, before it is broken."""

    path: str
    method: str = "POST"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None  # in place of the body
    files: list | None = None


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[tuple[Visitor, subprocess.Popen]]:
    folder = tmp_path_factory.mktemp("page")
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.demo.app", "--device", "cpu", "--time_limit", "40"]
    with (
        (folder / "errors.txt").open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            yield Visitor(process.stdout.readline().split("The page is at ")[1].split(";")[0]), process
        finally:
            process.terminate()
            process.wait(timeout=30)
    assert not list(folder.glob("setok-app-*"))


def test_page_requests(page, tmp_path):
    visitor, process = page
    rng = random.Random(0)
    scene = Image.fromarray(make_scene("test", 5, SceneConfig(image_size=64)).image)
    scene.save(tmp_path / "scene.png")
    Image.new("RGB", (64, 64), SECRET).save(tmp_path / "private.png")
    os.mkfifo(tmp_path / "pipe.png")
    picture = visitor.uploaded(tmp_path / "scene.png")
    private = [str(tmp_path / name) for name in ("private.png", "pipe.png", "missing.png")]
    private += ELSEWHERE + (str(tmp_path), f"{Path(picture['path']).parent}/../../../private.png")
    bytes_of_scene = (tmp_path / "scene.png").read_bytes()
    memory = resident(process)

    with campaign("requests to the page", least=1000) as cases:
        for number in range(NUM_CASES):
            request = broken(rng, picture, private, bytes_of_scene)
            cases.run(f"{number}: {request}"[:600], lambda: answer(visitor, request))  # noqa: B023
            if number % 100 == 99:
                cases.run(f"honest after {number}", lambda: honest(visitor, picture), lambda answer: answer == "yes")
                cases.run(f"memory after {number}", lambda: resident(process) - memory, lambda more: more < 2**30)
        print(f"\nmemory of the page: {memory >> 20} MiB at first, {resident(process) >> 20} MiB at most")


def honest(visitor: Visitor, picture: dict) -> str:
    went_well, told = visitor.call("ask", picture, None, "Is there an owl in the picture?")
    return told[0]["value"] if went_well else told


def resident(process: subprocess.Popen) -> int:
    """The most bytes of memory that the page has ever taken."""
    (line,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    return 1024 * int(line.split()[1])


# --- what is sent -----------------------------------------------------------------------------------------------------


def broken(rng: random.Random, picture: dict, private: list[str], bytes_of_picture: bytes) -> Request:
    """A request of one of the page's kinds, with one to three things wrong; some are still right."""
    kind = rng.choice(("call", "call", "call", "call", "join", "upload", "file", "address"))
    if kind == "upload":
        return upload(rng, bytes_of_picture)
    if kind in ("file", "address"):
        path = rng.choice([*private, picture["path"], *(broken_text(rng) for _ in range(3))])
        path = quote(path.encode("utf-8", "replace")[:8000], safe="/:")
        start = (
            f"{API}/file=" if kind == "file" else rng.choice(("/", f"{API}/", f"{API}/proxy=", "/static/", "/assets/"))
        )
        return Request(start + path, rng.choice(("GET", "GET", "HEAD", "POST", "PUT")), headers=broken_headers(rng))
    function, data = rng.choice(
        (
            ("tokenize", [picture]),
            ("ask", [picture, None, "How many objects are there in the picture?"]),
            ("ask", [picture, picture, "Which picture has more objects, the first or the second?"]),
            ("edit", [picture, "Remove the owl."]),
            ("segment", [picture, "the owl"]),
            ("paint", ["Draw: an owl on a plain red background.", 0, 1.5, 0.5]),
        )
    )
    body = {"data": copy.deepcopy(data)}
    if kind == "join":
        body |= {"fn_index": rng.randrange(-2, 25), "session_hash": rng.choice(("abc123", "x" * 99, 5, ""))}
    for _ in range(rng.randint(1, 3)):
        break_body(rng, body, private)
    request = Request(f"{API}/queue/join" if kind == "join" else f"{API}/call/{function}", body=body, headers={**JSON})
    if rng.random() < 0.15:
        content = bytearray(json.dumps(body).encode())
        for _ in range(rng.randint(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        request.content = bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])
    if rng.random() < 0.15:
        request.headers |= broken_headers(rng)
    return request


def break_body(rng: random.Random, body: dict, private: list[str]) -> None:
    data = body["data"]
    if not isinstance(data, list) or not data:
        return
    index = rng.randrange(len(data))
    match rng.randrange(8):
        case 0:
            data[index] = rng.choice(ODD_VALUES)
        case 1:
            del data[index]
        case 2:
            data.insert(index, rng.choice(ODD_VALUES))
        case 3:
            body[rng.choice(("data", "fn_index", "session_hash", "event_data", "trigger_id"))] = rng.choice(ODD_VALUES)
        case 4 | 5 if isinstance(data[index], dict):
            data[index]["path"] = rng.choice(private)
            if rng.random() < 0.5:
                data[index].pop("meta", None)
            if rng.random() < 0.2:
                data[index]["url"] = rng.choice(private)
        case _ if isinstance(data[index], str):
            data[index] = broken_text(rng)
        case _ if isinstance(data[index], dict):
            data[index][rng.choice(("path", "url", "meta", "is_stream", "size", "orig_name"))] = rng.choice(ODD_VALUES)


def broken_text(rng: random.Random) -> str:
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))
    return text * rng.choice((1, 1, 1, 10, 1000)) if rng.random() < 0.3 else text


def broken_headers(rng: random.Random) -> dict[str, str]:
    return rng.choice(
        (
            {
                "Host": rng.choice(
                    ("evil.example", "", "localhost.evil.example", "[::1", ":::", "127.0.0.1:1@evil.example")
                )
            },
            {"Content-Type": rng.choice(("text/plain", "multipart/form-data", "x", "application/json; charset=utf-7"))},
            {"Origin": "http://evil.example"},
            {"X-Forwarded-Host": rng.choice(("evil.example", "[", "a" * 3000))},
            {"Range": rng.choice(("bytes=0-1-2", "bytes=5-1", "bytes=-", "bytes=a-b", "bytes=0-99999999999999"))},
            {"Cookie": "a" * 5000},
            {"Accept-Encoding": rng.choice(("br", "br;q=x", "*"))},
        )
    )


def upload(rng: random.Random, picture: bytes) -> Request:
    """A file, perhaps damaged, of an odd name, or in a request that is no form."""
    content = bytearray(picture)
    match rng.randrange(4):
        case 0:
            content = content[: rng.randrange(len(content))]
        case 1:
            for _ in range(20):
                content[rng.randrange(len(content))] = rng.randrange(256)
        case 2:
            content = np.random.default_rng(rng.randrange(2**32)).bytes(rng.choice((0, 10, 10_000, 3_000_000)))
    name = rng.choice(
        ("a.png", "../../a.png", "/etc/passwd", "a" * 300, "", ".", "..", "%00", "ü\u202e.gif", "a/b\\c.png")
    )
    request = Request(f"{API}/upload", files=[("files", (name, bytes(content)))] * rng.choice((1, 1, 1, 0, 30)))
    match rng.randrange(8):
        case 0:
            request.headers = broken_headers(rng)
        case 1:
            request.path += "?upload_id=" + rng.choice(("a", "", "%00", "b" * 2000))
        case 2:
            junk = "".join(rng.choices(string.printable, k=200)).encode()
            request.files, request.content = None, b"--b\r\n" + junk
            request.headers = {"Content-Type": rng.choice(("multipart/form-data", "multipart/form-data; boundary=b"))}
    return request


# --- what comes back --------------------------------------------------------------------------------------------------


def answer(visitor: Visitor, request: Request) -> str:
    """What the page does with a request; a `ValueError` with the sentence in which it refuses it."""
    content = request.content
    if content is None and request.body is not None:
        content = json.dumps(request.body).encode()
    options = {"headers": request.headers, "content": content, "files": request.files}
    response = visitor.http.request(
        request.method, request.path, **{key: value for key, value in options.items() if value}
    )
    assert response.status_code < 500 and not holds_secret(response.content), response.text
    if response.request.method == "HEAD":
        return f"{response.status_code}"
    assert b"Traceback" not in response.content and b"root:x:" not in response.content
    if response.status_code != 200:
        if response.text in ("Not Found", "Method Not Allowed", "Forbidden"):  # below /static and /assets
            return response.text
        told = parsed(response)["detail"] if "json" in response.headers["Content-Type"] else response.text
        if told in ("Not Found", "Method Not Allowed", "Forbidden"):
            return told
        raise ValueError(str(told))
    if request.path.startswith(f"{API}/upload"):
        return see_uploads(visitor, parsed(response))
    if "/call/" in request.path:
        return see(visitor, *visitor.result_of(request.path.rpartition("/")[2], response))
    return "answered"


def parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:  # it would count as a sentence
        raise AssertionError(f"no JSON: {response.text}") from error


def see_uploads(visitor: Visitor, files: list[str]) -> str:
    return see(visitor, *visitor.call("tokenize", {"path": files[0]})) if files else "nothing to upload"


def see(visitor: Visitor, went_well: bool, told: Any) -> str:
    """The results of a call, whose pictures must be the page's own, or why there are none."""
    if not went_well:
        raise ValueError(told)
    values = [result["value"] for result in told if isinstance(result.get("value"), dict)]
    for path in [value["path"] for value in values if "path" in value]:
        file = visitor.file(path)
        assert file.status_code == 200 and not holds_secret(file.content), path
    return "results"


def holds_secret(content: bytes) -> bool:
    return content.startswith(b"\x89PNG") and Image.open(io.BytesIO(content)).convert("RGB").getpixel((1, 1)) == SECRET
