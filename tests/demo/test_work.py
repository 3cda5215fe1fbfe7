"""What the demo does without its page: uploads within limits, samples, restoring, and figures with their texts."""

from __future__ import annotations

import base64
import io
import logging
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ifan_plugin import zoo
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.demo import figures, samples
from ifan_plugin.demo import work as working
from ifan_plugin.demo.pictures import Limits, as_rgb, as_rgb8, read_picture
from ifan_plugin.demo.work import StoppedError, Work, Worker, iterations
from ifan_plugin.metrics import psnr
from ifan_plugin.photos.read_write import Photo, write_photo
from ifan_plugin.weights.networks import Network

LIMITS = Limits(megabytes=0.1, megapixels=0.01)


def pixels(height: int, width: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    smooth = cv2.resize(np.random.default_rng(seed).random((4, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.round(smooth.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def jpeg(picture: np.ndarray, **options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", **options)
    return data.getvalue()


def promising(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def network(**options) -> Network:
    torch.manual_seed(0)
    net = IFAN(width=2, num_steps=2, res_units=1, **options).eval().requires_grad_(False)
    return Network(net, ("center",), "IFAN", None, "a small IFAN")


class TestUploads:
    def test_exif_orientation_is_obeyed(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        (tmp_path / "größe 1.jpg").write_bytes(jpeg(pixels(40, 64), exif=exif, quality=95))
        photo = read_picture(tmp_path / "größe 1.jpg", LIMITS)
        assert photo.size == (64, 40)
        turned = np.rot90(pixels(40, 64), -1)
        assert np.abs(photo.pixels.astype(int) - turned).mean() < 4

    def test_depth_and_grey(self, tmp_path):
        write_photo(tmp_path / "a.png", Photo(pixels=pixels(20, 30, np.uint16), format="png"))
        photo = read_picture(tmp_path / "a.png", LIMITS)
        assert photo.bit_depth == 16
        np.testing.assert_array_equal(photo.pixels, pixels(20, 30, np.uint16))
        assert np.abs(as_rgb8(photo.pixels).astype(int) - pixels(20, 30).astype(int)).max() <= 1
        write_photo(tmp_path / "b.png", Photo(pixels=pixels(20, 30)[..., 0], format="png"))
        photo = read_picture(tmp_path / "b.png", LIMITS)
        assert photo.grey
        assert as_rgb(photo.pixels).shape == as_rgb8(photo.pixels).shape == (20, 30, 3)
        assert as_rgb(photo.pixels).max() <= 1

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.png", b"only text", "a.png: not a picture"),
            ("a.png", b"", "a.png: .*empty"),
            ("a.jpg", jpeg(pixels(60, 60))[:-200], "a.jpg: .*damaged or cut short"),
            ("a.png", promising(3000, 2000), "a.png: says it has 3000x2000 pixels, 6 megapixels"),
            ("a.png", b"x" * 200_000, r"a.png: 0.2 MB is too large; at most 0.1 MB"),
            ("a.txt", b"text", r"a.txt: not a kind of picture .*valid: .jpg"),
        ],
    )
    def test_bad_ones_are_refused_in_one_line(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as raised:
            read_picture(tmp_path / name, LIMITS)
        assert "\n" not in str(raised.value)
        assert str(tmp_path) not in str(raised.value), "the server's folders are nobody's business"

    def test_tiny_ones_are_refused(self, tmp_path):
        write_photo(tmp_path / "a.png", Photo(pixels=pixels(1, 1), format="png"))
        with pytest.raises(UserError, match=r"a\.png: 1x1 pixels is too small; at least 8x8"):
            read_picture(tmp_path / "a.png", LIMITS)

    def test_large_files_are_refused_before_they_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ifan_plugin.demo.pictures.read_photo", lambda *_, **__: pytest.fail("read"))
        (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(200_000))
        with pytest.raises(UserError, match="too large"):
            read_picture(tmp_path / "a.jpg", LIMITS)


class TestSamples:
    def test_of_a_folder(self, tmp_path, caplog):
        for name, size in (("b ü.png", (20, 30)), ("a.png", (30, 20)), ("large.png", (200, 200))):
            write_photo(tmp_path / name, Photo(pixels=pixels(*size), format="png"))
        (tmp_path / "bad.png").write_bytes(b"no picture")
        (tmp_path / "notes.txt").write_text("no picture")
        with caplog.at_level(logging.WARNING, logger="ifan_plugin"):
            found = samples.find_samples(tmp_path, LIMITS)
        assert found.origin == f"Pictures in {tmp_path.name}.", "where the folder lies is nobody's business"
        assert [sample.name for sample in found.members] == ["a", "b ü"]
        assert [picture.shape for picture in found.thumbnails] == [(30, 20, 3), (20, 30, 3)]
        photo, truth = found.members[1].read(LIMITS)
        np.testing.assert_array_equal(photo.pixels, pixels(20, 30))
        assert truth is None
        assert len(caplog.messages) == 2
        assert all("sample left out" in message for message in caplog.messages)

    def test_folders_that_cannot_be_used(self, tmp_path):
        with pytest.raises(UserError, match=r"--samples .*gone: folder not found"):
            samples.find_samples(tmp_path / "gone", LIMITS)
        with pytest.raises(UserError, match="no picture in it can be used; valid: JPEG, PNG"):
            samples.find_samples(tmp_path, LIMITS)

    def test_the_quickstarts_scenes_come_with_their_sharp_pictures(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for number, folder in enumerate(("source", "target")):
            (Path("datasets/quickstart/test_c") / folder).mkdir(parents=True)
            path = Path("datasets/quickstart/test_c") / folder / "one.png"
            write_photo(path, Photo(pixels=pixels(20, 30, np.uint16, seed=number), format="png"))
        found = samples.find_samples(None, LIMITS)
        photo, truth = found.members[0].read(LIMITS)
        assert "quickstart" in found.origin
        np.testing.assert_array_equal(photo.pixels, pixels(20, 30, np.uint16, seed=0))
        np.testing.assert_allclose(truth, pixels(20, 30, np.uint16, seed=1) / 65535, atol=1e-6)

    def test_scikit_images_pictures_are_blurred_here(self, tmp_path, monkeypatch):
        pytest.importorskip("skimage", reason="needs scikit-image's pictures")
        monkeypatch.chdir(tmp_path)
        found = samples.find_samples(None, Limits())
        assert "astronaut" in [sample.name for sample in found.members]
        assert "blurred here" in found.origin
        photo, truth = found.members[0].read(Limits())
        assert photo.pixels.shape == truth.shape == (512, 512, 3)
        assert 15 < psnr(as_rgb(photo.pixels), truth) < 35
        assert all(max(picture.shape[:2]) == samples.THUMBNAIL for picture in found.thumbnails)

    def test_the_disc_keeps_flat_areas_and_has_its_radius(self):
        flat = np.full((20, 20, 3), 0.5, np.float32)
        np.testing.assert_allclose(samples.disc_blurred(flat), flat, atol=1e-4)
        point = np.zeros((21, 21, 3), np.float32)
        point[10, 10] = 1
        spread = samples.disc_blurred(point, radius=3)[..., 0] > 0
        assert spread[10].sum() == spread[:, 10].sum() == 7
        assert not spread[7, 7]


class TestWorker:
    def test_restores_and_prepares_inspection(self):
        net = network()
        told: list[tuple[float, str]] = []
        work = Work("a.png", Photo(pixels=pixels(37, 50, np.uint16), format="png", alpha=np.ones((37, 50), np.uint16)))
        Worker(net).restore(work, lambda fraction, what: told.append((fraction, what)))
        with torch.no_grad():
            planes = torch.from_numpy(as_rgb(work.photo.pixels)).permute(2, 0, 1)[None]
            expected = net.net(planes)[0].permute(1, 2, 0).numpy()
        assert work.restored.dtype == np.uint16
        assert np.abs(work.restored / 65535 - expected).max() < 2e-5
        assert work.result.alpha is work.photo.alpha
        assert work.result.pixels is work.restored
        assert (work.inspector.rows, work.inspector.columns) == work.disparity.shape == (5, 7)
        fractions = [fraction for fraction, _ in told]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0, 1)
        assert any("filters" in what for _, what in told)

    def test_stops_between_tiles(self):
        worker = Worker(network(), tile=16)
        worker.stopping.set()
        with pytest.raises(StoppedError, match="stopped"):
            worker.restore(Work("a", Photo(pixels=pixels(96, 96), format="png")))

    def test_a_network_without_filters_restores_without_inspection(self):
        work = Work("a", Photo(pixels=pixels(32, 40), format="png"))
        worker = Worker(network(use_filters=False))
        worker.restore(work)
        assert work.restored.shape == (32, 40, 3)
        assert work.inspector is None
        assert "use_filters: false" in worker.no_filters
        assert "no disparity" in figures.disparity_html(work)

    def test_a_network_of_several_views_is_refused(self):
        with pytest.raises(UserError, match="DPDNet takes the views left, right, and the page has one picture"):
            Worker(Network(DPDNet(in_channels=6), ("left", "right"), "DPDNet", None, ""))

    def test_too_little_memory_for_the_filters_alone_is_said(self, monkeypatch):
        def fails(*_):
            raise torch.OutOfMemoryError("no more")

        monkeypatch.setattr(working, "FilterInspector", fails)
        work = Work("a", Photo(pixels=pixels(32, 40), format="png"))
        Worker(network()).restore(work)
        assert work.restored is not None
        assert "too little memory" in work.remark
        assert "too little memory" in figures.disparity_html(work)

    def test_other_faults_are_not_taken_for_that(self, monkeypatch):
        def fails(*_):
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(working, "FilterInspector", fails)
        with pytest.raises(RuntimeError, match="a fault of ours"):
            Worker(network()).restore(Work("a", Photo(pixels=pixels(32, 40), format="png")))

    def test_how_long_weights_were_trained(self, tmp_path):
        for name, content in (("net_g_600.pth", b"a"), ("net_g_1800.pth", b"b"), ("net_g_latest.pth", b"b")):
            (tmp_path / name).write_bytes(content)
        assert iterations(tmp_path / "net_g_600.pth") == 600
        assert iterations(tmp_path / "net_g_latest.pth") == 1800
        (tmp_path / "net_g_latest.pth").write_bytes(b"c")
        assert iterations(tmp_path / "net_g_latest.pth") is None
        assert iterations(tmp_path / "IFAN.pytorch") is None
        assert iterations(None) is None

    def test_how_long_shipped_weights_were_trained(self, tmp_path):
        assert iterations(zoo.find().path) > 10_000
        (tmp_path / "ifan_small.safetensors").write_bytes(b"torch.save's, by another name")
        assert iterations(tmp_path / "ifan_small.safetensors") is None

    def test_psnr(self):
        assert psnr(np.full((2, 2, 3), 0.6), np.full((2, 2, 3), 0.5)) == pytest.approx(20)
        assert psnr(np.zeros((2, 2, 3)), np.zeros((2, 2, 3))) == np.inf


@pytest.fixture(scope="module")
def restored() -> Work:
    net = network()
    torch.nn.init.constant_(net.net.filter_predictor.to_filters.bias, 0.5)
    sharp = pixels(61, 84, seed=1) / np.float32(255)
    work = Work("<b>ü</b>.png", Photo(pixels=pixels(61, 84), format="png"), sharp)
    Worker(net).restore(work)
    return work


class TestFigures:
    def pictures(self, html: str) -> list[np.ndarray]:
        found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
        return [
            cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for data in found
        ]

    def test_pictures_have_texts_and_are_inside_the_page(self, restored):
        kernel = restored.inspector.kernel(3, 5)
        shape = restored.disparity.shape  # that of an untrained network is flat
        restored.disparity = np.linspace(-1, 1, restored.disparity.size, dtype=np.float32).reshape(shape)
        for html in (
            figures.disparity_html(restored),
            figures.error_html(restored),
            figures.kernel_html(restored, restored.inspector, kernel),
        ):
            assert html.count("<figcaption>") == html.count("<figure") > 0
            assert all(alt for alt in re.findall(r'<figure[^>]*><img[^>]* alt="([^"]*)"', html))
            assert not re.search(r'src="(?!data:)', html)
        assert figures.error_html(Work("a", restored.photo, None, restored.restored)) == ""

    def test_the_kernel_in_words(self, restored):
        kernel = restored.inspector.kernel(3, 5, 2)
        html = figures.kernel_html(restored, restored.inspector, kernel)
        assert "Kernel of 5 x 5 weights, channel 2;" in html
        assert f"their sum is {kernel.total:.3g}" in html
        assert f"{kernel.weights.flat[np.abs(kernel.weights).argmax()]:.3g}" in html
        assert "columns 40 to 47, rows 24 to 31" in html
        assert "mean of 8 channels" in figures.kernel_html(
            restored, restored.inspector, restored.inspector.kernel(3, 5)
        )
        shown, blur = self.pictures(html)
        assert blur.shape == (figures.KERNEL_SIDE, figures.KERNEL_SIDE, 3)
        assert shown.shape[0] > figures.KERNEL_SIDE

    def test_kernels_that_pass_nothing_are_pointed_out(self, restored):
        kernel = restored.inspector.kernel(3, 5)
        said = "let next to nothing through"
        assert said not in figures.kernel_html(restored, restored.inspector, kernel)
        weak = type(kernel)(kernel.weights * 1e-9, 3, 5, None)
        assert said in figures.kernel_html(restored, restored.inspector, weak)

    def test_the_preview_marks_what_the_kernel_reaches(self, restored):
        plain, marked = figures.preview(restored), figures.preview(restored, restored.inspector.kernel(3, 5))
        np.testing.assert_array_equal(plain, restored.photo.pixels.repeat(5, 0).repeat(5, 1))
        changed = np.argwhere((plain != marked).any(-1)) / 5
        # 5 x 5 pixels at 1/8 size around row 3, column 5, and the frame's thickness.
        assert np.abs(changed.min(0) - [8, 24]).max() <= 1
        assert np.abs(changed.max(0) - [48, 64]).max() <= 1
        assert (marked[24 * 5 : 32 * 5, 40 * 5 : 48 * 5] == [255, 214, 0]).all()

    def test_large_pictures_are_shown_smaller(self):
        work = Work("a", Photo(pixels=pixels(500, 2000), format="png"))
        assert figures.preview(work).shape == (240, figures.PREVIEW, 3)

    def test_texts_are_escaped(self):
        assert figures.note("<b>", "problem") == '<p class="problem" role="alert">&lt;b&gt;</p>'
        assert figures.note("") == ""
        assert "&lt;i&gt;" in figures.figure(pixels(8, 8), '<i>"', "<i>")


def test_half_precision_is_refused_at_the_start():
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        Worker(network(), precision="fp16")


def test_a_picture_too_large_to_inspect_is_restored_all_the_same(monkeypatch):
    worker, work = Worker(network()), Work("a", Photo(pixels=pixels(40, 48), format="png"))
    monkeypatch.setattr(working, "budget", lambda device: 40 * 48 * 2 * working.INSPECTED_BYTES - 1)
    worker.restore(work)
    assert work.restored.shape == (40, 48, 3)
    assert (work.inspector, work.disparity, work.remark) == (None, None, working.TOO_LITTLE_MEMORY)
