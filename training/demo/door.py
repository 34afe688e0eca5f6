"""The page's door: what of a request is looked at before gradio sees it. Everything else is refused in a sentence.

gradio has many addresses that this page does not use, checks the paths of files only where a request asks for it, and
answers broken requests with an empty 500 and a traceback on the terminal.
"""

import ipaddress
import json
import re
import traceback
from collections.abc import Collection
from typing import Any

import gradio as gr
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.demo.pictures import MAX_BYTES
from training.demo.uploads import UploadFolder

API = "/gradio_api"
ADDRESSES = {
    "GET": re.compile(
        rf"/|/(?:assets|static)/.+|/theme\.css|/manifest\.json|/favicon\.ico|/robots\.txt|/config|{API}/(?:file=.+|info"
        r"|upload_progress|queue/data|heartbeat/\w+|startup-events|call/\w+/\w+)",
        re.DOTALL,
    ),
    "POST": re.compile(rf"{API}/(?:upload|queue/join|run/predict|call/\w+)"),
}
ADDRESSES["HEAD"] = ADDRESSES["GET"]
FILE, UPLOAD = f"{API}/file=", f"{API}/upload"
MAX_REQUEST = 2**18  # bytes of a request without a file
MULTIPART = 2**14  # bytes around the file of an upload
NO_FILE = "There is no such picture on this page, or no longer: upload it again."

FORM = 400, "Send an upload as a form (multipart/form-data) of files, each with its name."
INSIDE = 500, "Something went wrong inside, and the terminal says what: try another request."


class Refusal(Exception):
    """What the user is told, with an HTTP status."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Door:
    """An ASGI middleware around the page.

    Args:
        page: its functions say what requests look like.
        uploads: no file of a request lies elsewhere.
        host: address at which the page is served. It is to be called by this address, "localhost" or one of `names`: a
            foreign website that has its own name point here (DNS rebinding) is none of them. A page for the network
            ("0.0.0.0", "::") can be called by any numerical address, which no name can hide behind.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, uploads: UploadFolder, host: str, names: Collection[str] = ()):
        self.app, self.page, self.uploads = app, page, uploads
        self.names = {name.lower() for name in ("localhost", host, *names)}
        self.any_address = host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = finished = False

        async def watch(message: Message) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self.check_name(headers.get("host", ""))
            self.check_address(scope["method"], scope["path"])
            if scope["method"] == "POST":
                size = self.checked_size(scope["path"], headers)
                if scope["path"] != UPLOAD:
                    receive = replay(self.checked_body(scope["path"], await read(receive, size)), receive)
            await self.app(scope, receive, watch)
        except Refusal as refusal:
            await JSONResponse({"detail": str(refusal)}, refusal.status)(scope, receive, send)
        except Exception:
            traceback.print_exc()
            if not started:
                status, told = FORM if scope["path"] == UPLOAD else INSIDE
                await JSONResponse({"detail": told}, status)(scope, receive, send)
            elif not finished:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def check_name(self, host: str) -> None:
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if name not in self.names and not (self.any_address and is_address(name)):
            raise Refusal(421, "The page does not go by this name: start it with --names to allow others.")

    def check_address(self, method: str, path: str) -> None:
        if method not in ADDRESSES:
            raise Refusal(405, f"The page takes {', '.join(ADDRESSES)} requests only.")
        if not ADDRESSES[method].fullmatch(path):
            raise Refusal(404, "The page has nothing at this address.")
        if path.startswith(FILE) and not self.uploads.find(path.removeprefix(FILE)):
            raise Refusal(404, NO_FILE)

    def checked_size(self, path: str, headers: dict[str, str]) -> int:
        """In bytes, of the body of a request or an upload."""
        if not headers.get("content-length", "").isdecimal():
            raise Refusal(411, "Say in the header Content-Length how large the request is.")
        size = int(headers["content-length"])
        if path == UPLOAD:
            if not headers.get("content-type", "").startswith("multipart/form-data"):
                raise Refusal(*FORM)
            if size > MAX_BYTES + MULTIPART:
                raise Refusal(413, f"A picture may have {MAX_BYTES >> 20} MiB: upload a smaller one.")
            if not self.uploads.has_room_for(size):
                raise Refusal(507, "There is no room for more pictures now: try again in an hour.")
        elif size > MAX_REQUEST:
            raise Refusal(413, f"A request may have {MAX_REQUEST >> 10} KiB: shorten the text.")
        return size

    def checked_body(self, path: str, body: bytes) -> bytes:
        """The request as the page itself would send it."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"The request must be JSON: {error}.") from error
        if not isinstance(request, dict) or not isinstance(request.get("data"), list):
            raise Refusal(400, 'The request must be a JSON object with a list "data": what is filled in, in order.')
        function = self.find_function(path.removeprefix(f"{API}/"), request.get("fn_index"))
        values, inputs = request["data"], function.inputs
        if len(values) != len(inputs):
            told = f'"data" must hold {len(inputs)} values ({", ".join(map(label, inputs))}), and holds {len(values)}.'
            raise Refusal(400, told)
        checked = {"data": [self.checked_value(*pair) for pair in zip(values, inputs, strict=True)]}
        if not path.startswith(f"{API}/call/"):
            checked["fn_index"] = function._id
        if session := request.get("session_hash"):
            if not (isinstance(session, str) and re.fullmatch(r"\w{1,64}", session)):
                raise Refusal(400, '"session_hash" must be up to 64 letters and digits.')
            checked["session_hash"] = session
        return json.dumps(checked).encode()

    def find_function(self, address: str, index: Any) -> gr.blocks.BlockFunction:
        functions = self.page.fns
        if address.startswith("call/"):
            named = [function for function in functions.values() if f"call/{function.api_name}" == address]
        else:  # at run/predict are those that work at once; the models' have a queue
            named = [functions[index]] if type(index) is int and index in functions else []
            named = [function for function in named if bool(function.queue) == (address == "queue/join")]
        if not named:
            raise Refusal(404, "The page has no such function.")
        return named[0]

    def checked_value(self, value: Any, component: gr.blocks.Block) -> Any:
        """A file of the page's own for a picture, the number of an example; for anything else a text or a number."""
        if value is not None and isinstance(component, gr.Image):
            path = self.uploads.find(value.get("path")) if isinstance(value, dict) else None
            if path is None:
                raise Refusal(400, NO_FILE)
            return {"path": path, "meta": {"_type": "gradio.FileData"}}
        if isinstance(component, gr.Dataset) and not (type(value) is int and 0 <= value < len(component.samples)):
            raise Refusal(400, f"There are {len(component.samples)} examples: give the number of one, from 0 on.")
        if not isinstance(value, (str, int, float, type(None))):
            raise Refusal(400, f"{label(component)} must be a text or a number.")
        return value


def label(component: gr.blocks.Block) -> str:
    return getattr(component, "label", None) or component.get_block_name()


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def read(receive: Receive, size: int) -> bytes:
    """The body of a request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body", False) or len(body) > size:
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """A request with this body; what comes after it, such as that the user has gone, comes as ever."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> Message:
        return next(messages, None) or await receive()

    return next_message
