"""The page in headless Chromium: sample, upload, result, divider, inspector, bad uploads, and what it may not do."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, ctrl_c_heard
from PIL import Image

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.inference.api import restore
from ifan_plugin.photos.read_write import Photo, read_photo, write_photo
from ifan_plugin.pictures.kernels import FilterInspector

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
HEIGHT, WIDTH = 120, 176
WAIT = 30_000  # ms; a busy machine is slow


def chromium() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def missing() -> str | None:
    """Why the page can't be looked at here."""
    for module, package in (("gradio", "gradio>=5"), ("playwright", "playwright")):
        if importlib.util.find_spec(module) is None:
            return f"needs {module} (pip install '{package}')"
    return None if chromium() else "needs Chromium (apt-get install chromium)"


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((height // 8, width // 8, 3))
    return np.round(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(
        np.uint8
    )


def small_network() -> IFAN:
    """Filters near the identity, so that the kernels have something to show."""
    torch.manual_seed(0)
    net = IFAN(width=4, num_steps=3, res_units=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.12)
    with torch.no_grad():
        net.filter_predictor.to_filters.bias[: 3 * 2 * 16 * 3].view(6, 16, 3)[..., 1] += 1
    return net.eval()


class Served(NamedTuple):
    """A running demo."""

    address: str
    folder: Path
    process: subprocess.Popen
    temporary: Path


def start(folder: Path, *arguments: object) -> Served:
    """``basicsr demo`` in a process of its own, as soon as it serves."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "ifan_plugin", "demo", *map(str, arguments)]
    # Standard error into a file: a pipe that nobody reads would stop the process once it is full.
    with ctrl_c_heard(), (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"Serving on (http://\S+)", line):
            return Served(found[1], folder, process, temporary)
    raise AssertionError("".join(lines) + (folder / "errors.txt").read_text())


@pytest.fixture(scope="module")
def net() -> IFAN:
    return small_network()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, net: IFAN) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo größe 1")
    torch.save({"hyper_parameters": net.hyper_parameters, "params": net.state_dict()}, folder / "net_g_300.pth")
    (folder / "samples").mkdir()
    for number, name in enumerate(("first", "zweite ü")):
        write_photo(folder / "samples" / f"{name}.png", Photo(pixels=picture(number), format="png"))
    found = start(
        folder, "--weights", "net_g_300.pth", "--samples", "samples", "--device", "cpu", "--max-megapixels", 0.1,
        "--max-upload-mb", 0.2, "--tile", 64,
    )  # fmt: skip
    yield found
    if found.process.poll() is None:  # its last test ends it
        found.process.terminate()
        found.process.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, served: Served, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page; no script of it may fail and nothing be asked of other sites."""
    width = getattr(request, "param", 1280)
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.set_default_timeout(WAIT)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    # gradio 5 has a script of another site in its page, which the policy keeps the browser from asking for.
    blocked = "Content Security Policy"
    opened.on("console", lambda m: faults.append(m.text) if m.type == "error" and blocked not in m.text else None)
    own = (served.address, "data:", "blob:")
    opened.on("requestfinished", lambda r: faults.append(r.url) if not r.url.startswith(own) else None)
    opened.on(
        "requestfailed", lambda r: faults.append(r.url) if not r.url.startswith(own) and r.failure != "csp" else None
    )
    opened.goto(served.address)
    opened.locator("#upload").wait_for()
    yield opened
    opened.close()
    assert faults == []


def says(opened: Any, part: str, text: str) -> None:
    opened.locator(f"#{part}", has_text=text).wait_for()


def upload(opened: Any, name: str, data: bytes) -> None:
    opened.locator("#upload input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )


def restored(opened: Any) -> None:
    """Nothing is pressed: what is chosen or uploaded is restored."""
    says(opened, "status", "restored in")
    says(opened, "kernel", "Kernel of")


def overflows(opened: Any) -> list[str]:
    """What is wider than the window."""
    if opened.evaluate("document.documentElement.scrollWidth <= innerWidth"):
        return []
    return opened.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 200))"
    )


def test_the_page_says_which_weights_are_loaded(opened):
    opened.locator("#more button").first.click()
    says(opened, "about", "Network")
    said = opened.locator("#about").inner_text()
    assert "IFAN: width 4, num_steps 3" in said
    assert "net_g_300.pth [params], trained for 300 iterations" in said
    assert "(on cpu by torch)" in said
    assert "demo größe 1" not in opened.locator("body").inner_text(), "the server's folders are nobody's business"


@pytest.mark.parametrize("opened", [1280, 390], indirect=True)
def test_sample_result_divider_and_inspector(opened, served, net):
    assert overflows(opened) == []
    opened.locator("#samples button", has_text="zweite").click()
    restored(opened)
    assert overflows(opened) == []
    frame = opened.locator("#compare .frame").bounding_box()
    assert frame["y"] >= 0, "the result is in view without scrolling"
    assert frame["y"] + frame["height"] <= 900

    # The result, on the screen and as a file, is what the Python function gives.
    expected = restore(picture(1), str(served.folder / "net_g_300.pth"), device="cpu", tile=None).astype(int)
    with opened.expect_download() as download:
        opened.locator("#download").click()
    assert download.value.suggested_filename == "zweite ü_deblurred.png"
    result = read_photo(download.value.path()).pixels
    assert np.abs(result - expected).max() <= 1, "tiles may round another way"
    for alt, pixels in (("blurred", picture(1)), ("restored", result)):
        source = opened.locator(f"#compare img[alt={alt}]").get_attribute("src")
        decoded = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(decoded), pixels)

    # The divider follows the keyboard and the pointer, and its number is where it stands.
    def divider() -> tuple[str, str, str]:
        compare = opened.locator("#compare .compare")
        at = compare.evaluate("e => e.style.getPropertyValue('--at')")
        return at, opened.locator("#compare output").inner_text(), opened.locator("#compare input").input_value()

    opened.locator("#compare input").focus()
    for _ in range(4):
        opened.keyboard.press("ArrowRight")
    assert divider() == ("54%", "54 %", "54")
    box = opened.locator("#compare .frame").bounding_box()
    opened.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2, steps=4)
    opened.mouse.up()
    assert divider() == ("25%", "25 %", "25")

    # A click into the picture.
    inspector = FilterInspector(net, torch.from_numpy(picture(1) / np.float32(255)).permute(2, 0, 1)[None])
    place = opened.locator("#place img")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    opened.mouse.click(box["x"] + box["width"] * 100.5 / WIDTH, box["y"] + box["height"] * 44.5 / HEIGHT)
    says(opened, "kernel", "columns 96 to 103, rows 40 to 47")
    assert abs(int(opened.locator("#x input").input_value()) - 100) <= 1
    assert abs(int(opened.locator("#y input").input_value()) - 44) <= 1
    assert f"their sum is {inspector.kernel(5, 12).total:.3g}" in opened.locator("#kernel").inner_text()
    assert overflows(opened) == []

    # The same without a pointer, and another channel.
    opened.locator("#x input").fill("12")
    opened.locator("#y input").fill("119")
    opened.locator("#y input").press("Enter")
    says(opened, "kernel", "columns 8 to 15, rows 112 to 119")
    opened.locator("#channel input").fill("11")
    opened.keyboard.press("Enter")
    says(opened, "kernel", "channel 11;")
    assert f"their sum is {inspector.kernel(14, 1, 11).total:.3g}" in opened.locator("#kernel").inner_text()
    before = opened.locator("#kernel img").first.get_attribute("src")
    opened.locator("#x input").fill("90")
    opened.locator("#show").click()
    says(opened, "kernel", "columns 88 to 95, rows 112 to 119")
    assert opened.locator("#kernel img").first.get_attribute("src") != before
    assert all(opened.locator("#kernel img").evaluate_all("all => all.map(e => e.alt)"))
    opened.locator("#x input").fill(str(WIDTH))
    opened.locator("#show").click()
    says(opened, "kernel", f"x must be 0 to {WIDTH - 1}, not {WIDTH}")
    says(opened, "disparity", "pixels at 1/8 size")

    # Half of the effect, and another kind of file.
    opened.locator("#kind input").click()
    opened.get_by_role("option", name="JPEG").click()
    says(opened, "status", "at 100 % strength")
    opened.locator("#strength input[type=number]").fill("50")
    opened.locator("#strength input[type=number]").press("Tab")
    says(opened, "status", "at 50 % strength")
    with opened.expect_download() as download:
        opened.locator("#download").click()
    assert download.value.suggested_filename == "zweite ü_deblurred.jpg"


def test_an_upload_is_turned_upright_and_a_bad_one_is_explained(opened):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(picture()).save(data, "JPEG", exif=exif)
    upload(opened, "größe.jpg", data.getvalue())
    restored(opened)
    says(opened, "status", "größe.jpg: restored in")
    assert opened.locator("#compare img").first.evaluate("e => e.naturalWidth") == HEIGHT
    # What is there goes when a bad file comes, and a good one is taken after it.
    upload(opened, "text.png", b"no picture at all")
    opened.locator("#status [role=alert]", has_text="text.png: not a picture").wait_for()
    assert opened.locator("#compare img").count() == 0
    assert "restored" not in opened.locator("#status").inner_text()
    upload(opened, "cut.jpg", data.getvalue()[: len(data.getvalue()) // 2])
    opened.locator("#status [role=alert]", has_text="cut.jpg: JPEG is damaged or cut short").wait_for()
    large, tiny = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(large, "PNG")
    upload(opened, "large.png", large.getvalue())
    opened.locator("#status [role=alert]", has_text="large.png: says it has 400x400 pixels").wait_for()
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tiny, "PNG")
    upload(opened, "tiny.png", tiny.getvalue())
    opened.locator("#status [role=alert]", has_text="tiny.png: 1x1 pixels is too small").wait_for()
    upload(opened, "heavy.jpg", data.getvalue() + bytes(300_000))
    opened.get_by_text(re.compile("exceed.*maximum allowed size.*heavy.jpg")).first.wait_for()
    opened.locator("#samples button").first.click()
    says(opened, "status", "first: restored in")


def test_other_sites_cannot_reach_or_frame_it(opened, served):
    answer = opened.request.get(served.address)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    stranger = opened.request.get(served.address, headers={"Host": "evil.example"})
    assert stranger.status == 400
    assert "This page answers to 127.0.0.1 and localhost alone" in stranger.text()
    assert "googleapis" not in answer.text()
    for origin, status in (("http://evil.example", 403), ("null", 403), (served.address.rstrip("/"), 200)):
        upload = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": b"text"}}
        sent = opened.request.post(
            f"{served.address.rstrip('/')}/gradio_api/upload", headers={"Origin": origin}, multipart=upload
        )
        assert sent.status == status, origin


def test_ctrl_c_ends_it_and_leaves_nothing(served):
    """The last test: there is no page after it."""
    (private,) = served.temporary.glob("basicsr_demo_*")
    assert private.stat().st_mode & 0o077 == 0, "nobody else may look at the pictures"
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0
    assert "Ending" in served.process.stdout.read()
    assert "Traceback" not in (served.folder / "errors.txt").read_text()
    assert not private.exists()
