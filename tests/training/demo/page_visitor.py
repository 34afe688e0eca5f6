"""A visitor of the page who sends what they like, as curl would."""

import json
from pathlib import Path
from typing import Any

import httpx

API = "/gradio_api"


class Visitor:
    def __init__(self, address: str):
        self.http = httpx.Client(base_url=address, timeout=60)

    def upload(self, content: bytes, name: str = "picture.png") -> httpx.Response:
        return self.http.post(f"{API}/upload", files={"files": (name, content)})

    def uploaded(self, path: str | Path) -> dict[str, Any]:
        """The picture as the page sends it after its upload."""
        (found,) = self.upload(Path(path).read_bytes(), Path(path).name).json()
        return {"path": found, "meta": {"_type": "gradio.FileData"}}

    def call(self, function: str, *data: Any) -> tuple[bool, Any]:
        """Whether it went well, and the results, or what is told instead of them."""
        return self.result_of(function, self.http.post(f"{API}/call/{function}", json={"data": data}))

    def result_of(self, function: str, response: httpx.Response) -> tuple[bool, Any]:
        """Of a call that has been sent."""
        if response.status_code != 200:
            return False, response.json()["detail"]
        event = None
        with self.http.stream("GET", f"{API}/call/{function}/{response.json()['event_id']}") as answer:
            for line in answer.iter_lines():
                key, _, value = line.partition(": ")
                event = value if key == "event" else event
                if key == "data" and event in ("complete", "error"):
                    told = json.loads(value)
                    return event == "complete", told if event == "complete" else told["error"]
        raise AssertionError("The page has given no answer.")

    def file(self, path: str | Path) -> httpx.Response:
        return self.http.get(f"{API}/file={path}")
