"""The page itself: gradio's components and what happens when they are used. Only ``basicsr demo`` imports this."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ifan_plugin.demo import figures
from ifan_plugin.demo.pictures import SUFFIXES, Limits, as_rgb8, read_picture
from ifan_plugin.demo.samples import Samples
from ifan_plugin.demo.style import CSS
from ifan_plugin.demo.work import Work, Worker
from ifan_plugin.errors import UserError
from ifan_plugin.inference.photos import Photo, write_photo

LOOPBACK = ("127.0.0.1", "localhost")
SESSIONS = 8  # pictures kept at once; each takes some tens of megabytes
SECONDS_KEPT = 3600
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
# gradio's slider has no texts for those who don't see its pictures, which come a moment after the answer.
_NAME_PICTURES = """() => { setTimeout(() => document.querySelectorAll("#slider img").forEach(
    (image, number) => { image.alt = number ? "restored" : "blurred"; }), 300); }"""
_WHAT = (
    "The effective deblurring kernel that the network predicted at a place: what the features there, at 1/8 size, are "
    "made of after all the steps of its filters."
)
_FIRST = "Restore a picture first."
_HOW_TO = "Restore a picture first; then click a place in it, or give its coordinates, to see the kernel."


@dataclass(frozen=True)
class Setting:
    """What a page is built of.

    Args:
        worker: with the network.
        limits: of uploads.
        samples: pictures to try.
        folder: for files that the browser fetches; private, and deleted by whoever made it.
        loaded: lines that say which network and weights these are.
    """

    worker: Worker
    limits: Limits
    samples: Samples
    folder: Path
    loaded: Sequence[str]


class Answers:
    """What the page answers, without its components: each gives the values of some of them, by name.

    Nothing raises :class:`UserError` here: what a visitor did wrong comes back as the text of ``status`` or ``kernel``.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folders: deque[Path] = deque()

    def load_file(self, path: str | None) -> dict[str, Any]:
        """An upload was finished; ``path`` None: it was taken away."""
        if path is None:
            return self._cleared("")
        name = Path(path).name
        # The field is emptied, so that it takes the next one.
        return self._loaded(lambda: (name, read_picture(path, self.setting.limits), None)) | {"upload": None}

    def load_sample(self, index: int) -> dict[str, Any]:
        """A sample was chosen."""
        if index not in range(len(self.setting.samples.members)):  # no gallery of ours sends that
            return self._cleared(figures.note(f"There is no sample {index}.", "problem"))
        sample = self.setting.samples.members[index]
        return self._loaded(lambda: (sample.name, *sample.read(self.setting.limits))) | {"upload": None}

    def _loaded(self, read: Callable[[], tuple[str, Photo, np.ndarray | None]]) -> dict[str, Any]:
        try:
            name, photo, truth = read()
        except UserError as error:
            return self._cleared(figures.note(str(error), "problem"))
        work = Work(name, photo, truth)
        height, width = photo.size
        kind = f"{width} x {height} pixels, {photo.bit_depth} bit{', grey' if photo.grey else ''}"
        said = [f"{name}: {kind}. Ready to be restored.", *photo.notes]
        return self._cleared("".join(figures.note(line) for line in said)) | {
            "work": work, "picture": gr.update(value=figures.preview(work), visible=True),
            "run": gr.update(interactive=True),
        }  # fmt: skip

    def _cleared(self, status: str) -> dict[str, Any]:
        return {
            "work": None, "status": status, "picture": gr.update(value=None, visible=False),
            "run": gr.update(interactive=False), "slider": None, "download": gr.update(value=None, interactive=False),
            "disparity": figures.note(_FIRST), "errors": "", "place": None, "places": gr.update(visible=False),
            "x": None, "y": None, "kernel": figures.note(self.setting.worker.no_filters or _HOW_TO),
        }  # fmt: skip

    def restore(self, work: Work | None, channel: int, progress: Callable[[float, str], None]) -> dict[str, Any]:
        """The button was pressed."""
        if work is None:
            return {"status": figures.note("Upload a picture or choose a sample first.", "problem")}
        started = time.perf_counter()
        try:
            self.setting.worker.restore(work, progress)
            before, after, result = self._files(work)
        except UserError as error:
            return {"status": figures.note(str(error), "problem")}
        seconds = time.perf_counter() - started
        said = f"{work.name}: restored in {seconds:.1f} s on {self.setting.worker.network.device}."
        height, width = work.photo.size
        return {
            "work": work, "status": figures.note(said), "slider": (before, after), "picture": gr.update(visible=False),
            "download": gr.update(value=result, interactive=True),
            "disparity": figures.disparity_html(work), "errors": figures.error_html(work),
        } | self.inspect(work, width // 2, height // 2, channel)  # fmt: skip

    def _files(self, work: Work) -> tuple[str, str, str]:
        """Before and after, for the screen, and the result in full depth, each in a file."""
        assert work.restored is not None
        folder = Path(tempfile.mkdtemp(dir=self.setting.folder))
        self._folders.append(folder)
        if len(self._folders) > SESSIONS:  # the browser has fetched those of long ago
            shutil.rmtree(self._folders.popleft(), ignore_errors=True)
        written = []
        for what, pixels in (("before", work.photo.pixels), ("after", work.restored)):
            path = folder / f"{what}.png"
            write_photo(path, Photo(pixels=as_rgb8(pixels), format="png"))
            written.append(str(path))
        result = folder / f"{Path(work.name).stem}_deblurred.png"
        write_photo(result, work.result)
        return written[0], written[1], str(result)

    def inspect(self, work: Work | None, x: float | None, y: float | None, channel: int) -> dict[str, Any]:
        """A place was clicked or given, in pixels of the picture; ``channel`` -1 is the mean of all."""
        if self.setting.worker.no_filters:
            return {"kernel": figures.note(self.setting.worker.no_filters)}
        if work is None or work.inspector is None:
            return {"kernel": figures.note(work.remark if work and work.remark else _HOW_TO)}
        height, width = work.photo.size
        for name, value, size in (("x", x, width), ("y", y, height)):
            if value is None or not 0 <= value < size:
                what = "nothing" if value is None else f"{value:g}"
                return {"kernel": figures.note(f"{name} must be 0 to {size - 1}, not {what}", "problem")}
        assert x is not None
        assert y is not None
        kernel = work.inspector.kernel(*work.inspector.place(x, y), None if channel < 0 else channel)
        return {
            "x": int(x), "y": int(y), "kernel": figures.kernel_html(work, work.inspector, kernel),
            "place": figures.preview(work, kernel), "places": gr.update(visible=True),
        }  # fmt: skip

    def click(self, work: Work | None, index: Sequence[float], channel: int) -> dict[str, Any]:
        """A pixel (column, row) of the shown picture was clicked."""
        if work is None:
            return self.inspect(work, None, None, channel)
        height, width = work.photo.size
        shown = figures.preview(work)
        x = min(int((index[0] + 0.5) * width / shown.shape[1]), width - 1)
        y = min(int((index[1] + 0.5) * height / shown.shape[0]), height - 1)
        return self.inspect(work, x, y, channel)


def build(setting: Setting) -> gr.Blocks:
    """The page, ready to be launched."""
    answers = Answers(setting)
    network, limits, samples = setting.worker.network, setting.limits, setting.samples
    look = {"theme": gr.themes.Default(font=_FONTS, font_mono=_MONO), "css": CSS}
    page = _known(
        gr.Blocks, title="Defocus deblurring", analytics_enabled=False, delete_cache=(600, SECONDS_KEPT), **look
    )
    parts: dict[str, Any] = {}
    with page:
        parts["work"] = gr.State(None, time_to_live=SECONDS_KEPT)
        _html(f"<h1>Defocus deblurring with {figures.escape(network.name)}</h1>", elem_id="heading")
        _html("".join(figures.note(line) for line in setting.loaded), elem_id="weights")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                _html(f"<h2>Picture</h2>{figures.note(f'Upload one: {limits.described()}.')}")
                parts["upload"] = gr.File(
                    label="Picture to upload", show_label=False, file_types=list(SUFFIXES), height=150, elem_id="upload"
                )
                gallery = None
                if samples.members:
                    _html(figures.note(f"Or choose a sample. {samples.origin}"))
                    pairs = [(picture, s.name) for picture, s in zip(samples.thumbnails, samples.members)]
                    gallery = _known(
                        gr.Gallery, value=pairs, label="Samples", show_label=False, columns=3, height="auto",
                        allow_preview=False, object_fit="cover", interactive=False, buttons=[], elem_id="samples",
                        show_download_button=False, show_fullscreen_button=False, format="jpeg",
                    )  # fmt: skip
                parts["run"] = gr.Button("Restore", variant="primary", interactive=False, elem_id="run")
                parts["status"] = _html("", elem_id="status")
                parts["picture"] = _image("The picture", "picture", "The picture that will be restored", visible=False)
            with gr.Column(scale=3, min_width=300):
                _html("<h2>Before and after</h2>")
                parts["slider"] = _known(
                    gr.ImageSlider, label="Before | after", show_label=False, type="filepath", format="png",
                    interactive=False, buttons=["fullscreen"], show_download_button=False, max_height=620,
                    elem_id="slider",
                )  # fmt: skip
                parts["position"] = gr.Slider(
                    0, 100, value=50, step=1, label="Where the two pictures meet, in percent", elem_id="position"
                )
                parts["download"] = gr.DownloadButton(
                    "Download the result (PNG)", interactive=False, elem_id="download"
                )
                parts["errors"] = _html("", elem_id="errors")
        with gr.Column():
            _html(f"<h2>Filter inspector</h2>{figures.note('' if setting.worker.no_filters else _WHAT)}")
            with gr.Row(equal_height=False):
                with _known(gr.Column, scale=1, min_width=300, visible=False, elem_id="places") as parts["places"]:
                    parts["place"] = _image(
                        "Click a place", "place", "The picture, with a frame around the place that is inspected"
                    )
                    with gr.Row():
                        parts["x"] = gr.Number(label="x (column)", precision=0, min_width=80, elem_id="x")
                        parts["y"] = gr.Number(label="y (row)", precision=0, min_width=80, elem_id="y")
                    channels = 0 if setting.worker.no_filters else 4 * network.net.hyper_parameters["width"]
                    choices = [(f"mean of all {channels}", -1), *((str(n), n) for n in range(channels))]
                    parts["channel"] = gr.Dropdown(choices, value=-1, label="Channel", elem_id="channel")
                    show = gr.Button("Show the kernel", elem_id="show")
                with gr.Column(scale=2, min_width=300):
                    parts["kernel"] = _html(figures.note(setting.worker.no_filters or _HOW_TO), elem_id="kernel")
        with gr.Column():
            _html("<h2>Disparity map</h2>")
            parts["disparity"] = _html(figures.note(_FIRST), elem_id="disparity")
        _connect(answers, parts, gallery, show)
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


def _connect(answers: Answers, parts: dict[str, Any], gallery: Any, show: Any) -> None:
    """Which answer belongs to which event. All that runs the network waits for its turn in one line."""
    outputs = [part for name, part in parts.items() if name not in ("channel", "position")]

    def given(values: dict[str, Any]) -> dict[Any, Any]:
        return {parts[name]: value for name, value in values.items()}

    def load_file(path: str | None) -> dict[Any, Any]:
        return given(answers.load_file(path))

    def load_sample(event: gr.SelectData) -> dict[Any, Any]:
        return given(answers.load_sample(event.index))

    def restore(work: Work | None, channel: int, progress: Any = gr.Progress()) -> Iterator[dict[Any, Any]]:  # noqa: B008
        again = gr.update(interactive=True)
        yield given({"run": gr.update(interactive=False), "status": figures.note("Restoring …")})
        try:
            found = answers.restore(work, channel, lambda fraction, what: progress(fraction, desc=what))
        except Exception:
            said = "A fault of the program; the terminal that it was started in says more."
            yield given({"run": again, "status": figures.note(said, "problem")})
            raise
        yield given({"run": again} | found)

    def inspect_place(work: Work | None, x: float | None, y: float | None, channel: int) -> dict[Any, Any]:
        return given(answers.inspect(work, x, y, channel))

    def click(work: Work | None, channel: int, event: gr.SelectData) -> dict[Any, Any]:
        return given(answers.click(work, event.index, channel))

    reading = {"outputs": outputs, "concurrency_limit": 1, "concurrency_id": "reading", **_private()}
    running = {"outputs": outputs, "concurrency_limit": 1, "concurrency_id": "network", **_private()}
    upload = parts["upload"]
    for event in (upload.upload, upload.clear):
        event(load_file, upload, **reading, show_progress_on=parts["status"])
    if gallery is not None:
        gallery.select(load_sample, None, **reading, show_progress_on=parts["status"])
    work, channel = parts["work"], parts["channel"]
    restored = parts["run"].click(restore, [work, channel], **running, show_progress_on=parts["slider"])
    restored.then(None, js=_NAME_PICTURES, **_private())
    place = [work, parts["x"], parts["y"], channel]
    parts["place"].select(click, [work, channel], **running, show_progress_on=parts["kernel"])
    for event in (show.click, parts["x"].submit, parts["y"].submit, channel.input):
        event(inspect_place, place, **running, show_progress_on=parts["kernel"])
    # The keyboard's way to move the divider, which itself follows the pointer alone.
    parts["position"].input(
        lambda percent: gr.update(slider_position=percent), parts["position"], parts["slider"],
        show_progress="hidden", trigger_mode="always_last", **_private(),
    )  # fmt: skip


def launch(page: gr.Blocks, limits: Limits, host: str, port: int | None) -> str:
    """Start serving in threads of their own. Returns the page's address.

    Raises:
        UserError: the port is taken, or the address isn't this machine's.
    """
    # Other people's sites must not reach a page on this machine by a name of theirs that leads here.
    hosts = list(LOOPBACK) if host in LOOPBACK else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_OwnResourcesOnly)]
    options = {
        "server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True, "share": False,
        "inbrowser": False, "show_error": False, "max_file_size": limits.bytes, "ssr_mode": False, "mcp_server": False,
        "enable_monitoring": False, "run_history": False, "footer_links": [], "show_api": False, "pwa": False,
        "state_session_capacity": SESSIONS, "app_kwargs": {"middleware": middleware},
        "theme": gr.themes.Default(font=_FONTS, font_mono=_MONO), "css": CSS,
    }  # fmt: skip
    known = inspect.signature(gr.Blocks.launch).parameters
    try:
        _, address, _ = page.launch(**{name: value for name, value in options.items() if name in known})
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--host {host} --port {port or 'any'}: can't serve there: {reason}") from error
    return address


def close(page: gr.Blocks, folder: Path) -> None:
    """Stop serving and delete the files."""
    page.close(verbose=False)
    shutil.rmtree(folder, ignore_errors=True)


class _OwnResourcesOnly:
    """Tells the browser to fetch nothing from other sites, whatever gradio's pages ask for, and takes nothing that
    the pages of other sites send."""

    POLICY = (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and not _is_own(scope["headers"]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"from another site\n"})
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", self.POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = message | {"headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


def _is_own(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request comes from this page, or from a program that is no browser and names no page."""
    named = dict(headers)
    origin = named.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == named.get(b"host")


def _known(component: Any, **options: Any) -> Any:
    """A component with those options that this version of gradio has: their names changed from 5 to 6."""
    parameters = inspect.signature(component).parameters
    return component(**{name: value for name, value in options.items() if name in parameters})


def _html(text: str, **options: Any) -> Any:
    return _known(gr.HTML, value=text, padding=False, **options)


def _image(label: str, name: str, alt: str, **options: Any) -> Any:
    """A picture to look at and to click, not to upload."""
    return _known(
        gr.Image, label=label, type="numpy", format="png", interactive=False, elem_id=name, alt_text=alt, buttons=[],
        show_download_button=False, show_fullscreen_button=False, show_label=False, **options,
    )  # fmt: skip


def _private() -> dict[str, Any]:
    """The page's events are no programming interface."""
    parameters = inspect.signature(gr.on).parameters
    return {"api_visibility": "private"} if "api_visibility" in parameters else {"api_name": False}
