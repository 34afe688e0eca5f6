"""A page to try SeTok and Setokim in a browser: photographs, tokenise, ask, paint, edit, segment.

python -m training.demo.app [--photograph_model DIR] [--setok DIR_OR_ID] [--setokim DIR_OR_ID] [--host 127.0.0.1]
    [--port 7860] [--device cpu]

What users send is looked at by `door.py` before gradio gets it; `uploads.py` keeps their pictures, for an hour.
"""

import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import transformers
from gradio.utils import get_upload_folder
from huggingface_hub import snapshot_download
from starlette.middleware import Middleware
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor
from training.demo.conversation import CAVEAT
from training.demo.door import Door
from training.demo.models import (
    MAKE_PHOTOGRAPHS,
    PHOTOGRAPHS,
    SCENES,
    SETOKIM,
    load_photograph_model,
    load_setok,
    load_setokim,
)
from training.demo.photographs import PhotographModel
from training.demo.pictures import MAX_BYTES, load_photographs
from training.demo.tabs import ask_tab, edit_tab, paint_tab, photograph_tab, segment_tab, tokenise_tab
from training.demo.uploads import UploadFolder
from training.demo.workbench import TIME_LIMIT, Workbench
from training.evaluation.report import choose_device

TITLE = "SeTok and Setokim"
INTRODUCTION = (
    f"# {TITLE}\nAn image as a few concept tokens, and a language model that reads and writes them.\n\n*{CAVEAT}*"
)
WITHOUT_PHOTOGRAPHS = f"There is no tab of photographs, because its model is not there: {MAKE_PHOTOGRAPHS}."
CSS = """
/* the models' pictures are of few pixels: they are shown as large as their place, below its label and buttons */
.picture img {width: 100%; height: 100%; object-fit: contain; box-sizing: border-box; padding-top: 28px}
.note {white-space: pre-line}
/* what went wrong is told once, in a sentence; the results just stay empty */
[data-testid="status-tracker"] .error {display: none}
"""
# Pixels of small pictures are shown as squares, without blur; photographs are large.
HEAD = """<script>
document.addEventListener("load", ({target}) => {
  if (target.tagName === "IMG") target.style.imageRendering = target.naturalWidth < 256 ? "pixelated" : "auto";
}, true);
</script>"""
WAITING = 32  # calls of the models; more are told to come later
SESSIONS = 100  # that gradio remembers: each takes some 100 KiB
FONT = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "sans-serif")  # in gradio's package, all letters


def build_app(
    setok: SetokForPreTraining,
    image_processor: SetokImageProcessor,
    setokim: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    time_limit: float = TIME_LIMIT,
    photograph_model: PhotographModel | None = None,
) -> gr.Blocks:
    """The page, ready for `serve`; the tab of photographs is there where its model is. Each tab opens with an example
    and its result, which the models give here and now. One call of the models runs at a time, the others wait in a
    queue; after `time_limit` seconds it is given up."""
    if not 0 < time_limit <= threading.TIMEOUT_MAX:
        raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit}.")
    bench = Workbench(setok, image_processor, setokim, processor, time_limit, photograph_model)
    image_size = processor.image_processor.size["height"]
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.Markdown(INTRODUCTION if photograph_model else f"{INTRODUCTION}\n\n{WITHOUT_PHOTOGRAPHS}")
        if photograph_model:
            with gr.Tab("Photograph"):
                photograph_tab(bench)
        with gr.Tab("Tokenise"):
            tokenise_tab(bench, image_processor.size["height"])
        with gr.Tab("Ask"):
            ask_tab(bench, image_size)
        with gr.Tab("Paint"):
            paint_tab(bench, image_size)
        with gr.Tab("Edit"):
            edit_tab(bench, image_size)
        with gr.Tab("Segment"):
            segment_tab(bench, image_size)
    return app.queue(default_concurrency_limit=1, max_size=WAITING)


def serve(
    app: gr.Blocks,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Collection[str] = (),
    uploads: UploadFolder | None = None,
) -> str:
    """Serves the page from now on, by default at the first free port from 7860 on, and returns its address; `OSError`
    where the port is taken, `ValueError` for a port or a name that cannot be.

    Args:
        names: those of `Door`.
        uploads: by default where gradio keeps files, all of them until somebody deletes them.
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"port must be a number from 1 to {2**16 - 1}, got {port}.")
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+", name)]:
        raise ValueError(f"names must be such as demo.example.org, without scheme, port and path, got {wrong[0]!r}.")
    uploads = uploads or UploadFolder(get_upload_folder())
    options = {
        "theme": gr.themes.Default(font=FONT),
        "css": CSS,
        "head": HEAD,
        "footer_links": [],
        "run_history": False,
        "max_file_size": MAX_BYTES,
        "state_session_capacity": SESSIONS,
        "app_kwargs": {"middleware": [Middleware(Door, page=app, uploads=uploads, host=host, names=names)]},
    }
    _, address, _ = app.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **options)
    return address


def local_folder(name: str) -> str:
    """The folder of this name, or of the copy of a model on the Hub; `ValueError` if it is neither."""
    if Path(name).is_dir():
        return name
    try:
        return snapshot_download(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name!r} is neither a folder nor a model on the Hub: {error}") from error


@dataclass
class Arguments:
    photograph_model: str = field(
        default=PHOTOGRAPHS, metadata={"help": "folder of a SeTok whose encoder knows photographs"}
    )
    setok: str = field(default=SCENES, metadata={"help": "folder or Hub id of a SeTok"})
    setokim: str = field(default=SETOKIM, metadata={"help": "folder or Hub id of a Setokim"})
    host: str = field(default="127.0.0.1", metadata={"help": "0.0.0.0: for all who can reach this machine"})
    names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "names by which the page is called, such as demo.example.org; it always answers to localhost and "
            "its address, with 0.0.0.0 to all numerical addresses, and to no other name: it may be a foreign website's"
        },
    )
    port: int | None = field(default=None, metadata={"help": "default: the first free one from 7860 on"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    time_limit: float = field(
        default=TIME_LIMIT, metadata={"help": "seconds after which a call of the models is given up"}
    )


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    transformers.logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: what users have uploaded does not stay
    with tempfile.TemporaryDirectory(prefix="setok-app-") as folder:  # nothing of them stays when the page is stopped
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            device = choose_device(arguments.device)
            setok, image_processor = load_setok(local_folder(arguments.setok))
            setokim, processor = load_setokim(local_folder(arguments.setokim))
            photograph_model = None
            if Path(arguments.photograph_model).is_dir():
                photograph_model = load_photograph_model(arguments.photograph_model)
                photograph_model.model.to(device)
                photograph_model = photograph_model.with_scales_of(load_photographs())
            else:
                print(WITHOUT_PHOTOGRAPHS, flush=True)
            parts = setok.to(device), image_processor, setokim.to(device), processor
            app = build_app(*parts, arguments.time_limit, photograph_model)
            uploads = UploadFolder(folder)
            uploads.clear_regularly()
            address = serve(app, arguments.host, arguments.port, arguments.names, uploads)
            print(f"The page is at {address}; Ctrl+C ends it.", flush=True)
        except (OSError, ValueError, RuntimeError) as error:  # the last one: no room on the device
            sys.exit(f"Error: {error}")
        app.block_thread()


if __name__ == "__main__":
    main()
