"""The page itself: gradio's components and what happens when they are used. Only ``basicsr demo`` imports this."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ifan_plugin.demo import figures
from ifan_plugin.demo.answers import AS_UPLOADED, ENDINGS, FIRST, HOW_TO, Answers, Setting
from ifan_plugin.demo.pictures import SUFFIXES
from ifan_plugin.demo.serve import SESSIONS, close, launch
from ifan_plugin.demo.style import CSS, theme
from ifan_plugin.demo.work import Work

__all__ = ["SESSIONS", "Answers", "Setting", "build", "close", "launch"]

SECONDS_KEPT = 3600
_WHAT = (
    "The effective deblurring kernel that the network predicted at a place: what the features there, at 1/8 size, are "
    "made of after all the steps of its filters."
)
# On a phone the result stands above the samples that were just tapped.
_SHOW_RESULT = """() => { const part = document.querySelector("#result"), top = part.getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) part.scrollIntoView({block: "start"}); }"""


def build(setting: Setting) -> gr.Blocks:
    """The page, ready to be launched. Raises :class:`UserError` where its first network can't be loaded."""
    answers = Answers(setting)
    first = setting.pool.worker(0)
    page = _known(
        gr.Blocks, title="Defocus deblurring", analytics_enabled=False, delete_cache=(600, SECONDS_KEPT), theme=theme(),
        css=CSS,
    )  # fmt: skip
    parts: dict[str, Any] = {}
    with page:
        parts["work"] = gr.State(None, time_to_live=SECONDS_KEPT)
        _html("<h1>Defocus deblurring</h1>", elem_id="heading")
        with gr.Row(equal_height=False, elem_id="main"):
            with gr.Column(scale=2, min_width=300, elem_id="input"):
                gallery = _inputs(setting, parts)
            with gr.Column(scale=3, min_width=300, elem_id="result"):
                _result(parts)
        with gr.Column():
            _html(f"<h2>Filter inspector</h2>{figures.note(first.no_filters or f'{_WHAT} {HOW_TO}')}")
            with gr.Row(equal_height=False):
                with _known(gr.Column, scale=1, min_width=300, visible=False, elem_id="places") as parts["places"]:
                    parts["place"] = _image(
                        "Click a place", "place", "The picture, with a frame around the place that is inspected"
                    )
                    with gr.Row():
                        parts["x"] = gr.Number(label="x (column)", precision=0, min_width=80, elem_id="x")
                        parts["y"] = gr.Number(label="y (row)", precision=0, min_width=80, elem_id="y")
                    parts["channel"] = gr.Dropdown(
                        _channels(answers, 0), value=-1, label="Channel", elem_id="channel", interactive=True
                    )
                    show = gr.Button("Show the kernel", elem_id="show")
                with gr.Column(scale=2, min_width=300):
                    parts["kernel"] = _html(figures.note(first.no_filters or FIRST), elem_id="kernel")
        with gr.Column():
            _html("<h2>Disparity, or size of the blur</h2>")
            parts["disparity"] = _html(figures.note(FIRST), elem_id="disparity")
        with gr.Accordion("About this network", open=False, elem_id="more"):
            parts["about"] = _html(answers.about(0), elem_id="about")
        _connect(answers, parts, gallery, show)
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


def _inputs(setting: Setting, parts: dict[str, Any]) -> Any:
    """Upload, samples, network, strength. Returns the gallery of samples, or None."""
    limits, samples = setting.limits, setting.samples
    _html(figures.note(f"Upload a picture, and it is restored: {limits.described()}."))
    parts["upload"] = gr.File(
        label="Picture to upload", show_label=False, file_types=list(SUFFIXES), height=130, elem_id="upload"
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
    networks = [(choice.name, number) for number, choice in enumerate(setting.pool.choices)]
    parts["network"] = gr.Dropdown(networks, value=0, label="Network", elem_id="network", interactive=True)
    parts["strength"] = gr.Slider(
        0, 100, value=100, step=5, label="Strength, percent (0: the original)", elem_id="strength"
    )
    return gallery


def _result(parts: dict[str, Any]) -> None:
    """Status, before and after, the file."""
    parts["status"] = _html("", elem_id="status")
    with _known(gr.Column, visible=False, elem_id="output") as parts["output"]:
        parts["compare"] = _html("", elem_id="compare")
        parts["full"] = gr.Button("Restore at full size", visible=False, elem_id="full")
        with gr.Row():
            kinds = [(AS_UPLOADED, AS_UPLOADED), *((kind.upper(), kind) for kind in ENDINGS)]
            parts["kind"] = gr.Dropdown(
                kinds, value=AS_UPLOADED, label="Kind of file", elem_id="kind", interactive=True, min_width=120
            )
            parts["download"] = gr.DownloadButton("Download the result", interactive=False, elem_id="download")
        parts["errors"] = _html("", elem_id="errors")


def _channels(answers: Answers, chosen: int) -> list[tuple[str, int]]:
    """What the inspector's choice of a channel offers with a network."""
    worker = answers.setting.pool.worker(chosen)
    said: dict[str, Any] = getattr(worker.network.net, "hyper_parameters", {})
    count = 0 if worker.no_filters else 4 * said["width"]
    return [(f"mean of all {count}", -1), *((str(number), number) for number in range(count))]


class _Handlers:
    """The answers as gradio's events take them: by component."""

    def __init__(self, answers: Answers, parts: dict[str, Any]) -> None:
        self.answers, self.parts = answers, parts

    def given(self, values: dict[str, Any]) -> dict[Any, Any]:
        return {self.parts[name]: value for name, value in values.items()}

    def load_file(self, path: str | None) -> dict[Any, Any]:
        return self.given(self.answers.load_file(path))

    def load_sample(self, event: gr.SelectData) -> dict[Any, Any]:
        return self.given(self.answers.load_sample(event.index))

    def restore(
        self, work: Work | None, channel: int, chosen: int, strength: float, kind: str,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        yield from self._restoring(self.answers.restore, work, channel, progress, chosen, strength, kind)

    def restore_whole(
        self, work: Work | None, channel: int, chosen: int, strength: float, kind: str,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        yield from self._restoring(self.answers.restore_whole, work, channel, progress, chosen, strength, kind)

    def _restoring(
        self, answer: Callable[..., dict[str, Any]], work: Work | None, channel: int, progress: Any, *more: Any
    ) -> Iterator[dict[Any, Any]]:
        if work is None:  # there is none, and the status says why
            yield self.given({"work": None})
            return
        yield self.given({"status": figures.note(f"{work.name}: restoring …"), "full": gr.update(interactive=False)})
        again = {"full": gr.update(interactive=True)}
        try:
            found = answer(work, channel, lambda fraction, what: progress(fraction, desc=what), *more)
        except Exception:
            said = "A fault of the program; the terminal that it was started in says more."
            yield self.given(again | {"status": figures.note(said, "problem")})
            raise
        yield self.given(again | found)

    def choose(self, chosen: int) -> dict[Any, Any]:
        about = self.answers.about(chosen)
        if 'class="problem"' in about:
            return self.given({"about": about, "status": about})
        return self.given({"about": about, "channel": gr.update(choices=_channels(self.answers, chosen), value=-1)})

    def give(self, work: Work | None, strength: float, kind: str) -> dict[Any, Any]:
        return self.given(self.answers.give(work, strength, kind) if work is not None else {"work": None})

    def inspect_place(
        self, work: Work | None, x: float | None, y: float | None, channel: int, chosen: int
    ) -> dict[Any, Any]:
        return self.given(self.answers.inspect(work, x, y, channel, chosen))

    def click(self, work: Work | None, channel: int, chosen: int, event: gr.SelectData) -> dict[Any, Any]:
        return self.given(self.answers.click(work, event.index, channel, chosen))


def _connect(answers: Answers, parts: dict[str, Any], gallery: Any, show: Any) -> None:
    """Which answer belongs to which event. All that runs the network waits for its turn in one line."""
    handlers = _Handlers(answers, parts)
    outputs = [part for name, part in parts.items() if name not in ("network", "strength", "kind")]
    reading = {"outputs": outputs, "concurrency_limit": 1, "concurrency_id": "reading", **_private()}
    running = {"outputs": outputs, "concurrency_limit": 1, "concurrency_id": "network", **_private()}
    work, channel, chosen = parts["work"], parts["channel"], parts["network"]
    whole = [work, channel, chosen, parts["strength"], parts["kind"]]
    on_status = {"show_progress_on": parts["status"]}
    loads = [parts["upload"].upload(handlers.load_file, parts["upload"], **reading, **on_status)]
    if gallery is not None:
        loads.append(gallery.select(handlers.load_sample, None, **reading, **on_status))
    for loaded in loads:
        loaded.then(None, js=_SHOW_RESULT, **_private())
        loaded.then(handlers.restore, whole, **running, **on_status)
    parts["full"].click(handlers.restore_whole, whole, **running, **on_status)
    chosen.input(handlers.choose, chosen, **running, **on_status).then(handlers.restore, whole, **running, **on_status)
    for event in (parts["strength"].release, parts["kind"].input):
        event(handlers.give, [work, parts["strength"], parts["kind"]], **reading, **on_status)
    place = [work, parts["x"], parts["y"], channel, chosen]
    parts["place"].select(handlers.click, [work, channel, chosen], **running, show_progress_on=parts["kernel"])
    for event in (show.click, parts["x"].submit, parts["y"].submit, channel.input):
        event(handlers.inspect_place, place, **running, show_progress_on=parts["kernel"])


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
