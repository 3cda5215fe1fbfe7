"""Photographs: what cameras and editors write is read upright and given back in kind, or refused in one line."""

from __future__ import annotations

import dataclasses
import errno
import io
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif, jpeg, png, raw, resources, tiff
from ifan_plugin.photos.read_write import Photo, read_photo, write_photo

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" xmp:Rating="4"/></x:xmpmeta>'
FORMATS = ("jpg", "png", "tif", "webp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Fotos für Tests"
    path.mkdir()
    return path


def noise(channels: int = 3, bits: int = 8, height: int = 21, width: int = 34) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(channels).integers(0, 2**bits, shape).astype(f"uint{bits}")


def smooth(height: int = 40, width: int = 56) -> np.ndarray:
    """Lossy formats keep it nearly as it is."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([4 * x, 5 * y, 255 - 2 * (x + y)]).clip(0, 255).astype(np.uint8)


def camera_exif(orientation: int, width: int = 56, height: int = 40) -> Image.Exif:
    block = Image.Exif()
    block[0x010F], block[0x0110], block[exif.ORIENTATION] = "Kamera", "Modell 7", orientation
    block.get_ifd(0x8769).update({0x829A: 0.004, 0xA002: width, 0xA003: height, 0x927C: b"maker's own" * 5})
    block.get_ifd(0x8825).update({1: "N", 2: (50.0, 30.0, 15.0)})
    return block


def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return png.SIGNATURE + b"".join(packed)


def tiff_bytes(data: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, data, **options)
    return file.getvalue()


def pillow_bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def retagged(data: bytes, tags: exif.Directory) -> bytes:
    """A little-endian TIFF file with these tags besides its own."""
    at = len(data) + len(data) % 2
    return (
        data[:4] + struct.pack("<I", at) + data[8:].ljust(at - 8, b"\0") + exif.serialise(exif.parse(data) | tags, at)
    )


def tiff_with_exif(pixels: np.ndarray, orientation: int, **more: bytes) -> bytes:
    """Pillow writes no EXIF directory into TIFF."""
    tags = exif.parse(camera_exif(orientation).tobytes().removeprefix(exif.MARK))
    tags |= {700: exif.raw(more["xmp"], 1)} if "xmp" in more else {}
    plain = pillow_bytes(Image.fromarray(pixels), "TIFF", dpi=(300, 300), icc_profile=more.get("icc"))
    return retagged(plain, tags)


def read_bytes(folder: Path, data: bytes, name: str = "ein Bild.dat") -> Photo:
    (folder / name).write_bytes(data)
    return read_photo(folder / name)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_lossless_kinds_give_back_every_sample(folder, ending, channels, bits):
    """Other people's readers read the same."""
    samples = noise(channels, bits)
    alpha = samples[..., -1] if channels in (2, 4) else None
    pixels = samples if channels == 1 else samples[..., 0] if channels == 2 else samples[..., :3]
    path = folder / f"ü.{ending}"
    assert write_photo(path, Photo(pixels, "png", alpha)) == ()

    back = read_photo(path)
    assert back.bit_depth == bits
    assert back.grey == (channels < 3)
    np.testing.assert_array_equal(back.pixels, pixels)
    assert (back.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(back.alpha, alpha)
    if ending == "tif":
        np.testing.assert_array_equal(tifffile.imread(path), samples)
    elif bits == 8:
        np.testing.assert_array_equal(np.asarray(Image.open(path)), samples)
    else:
        theirs = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        order = {1: ..., 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        np.testing.assert_array_equal(theirs if channels == 1 else theirs[..., order], samples)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (700, 900)])
def test_any_size_goes_through_our_writers(folder, height, width):
    """The last one takes several strips."""
    pixels = noise(3, 16, height, width)
    for name in ("a.png", "a.tif"):
        write_photo(folder / name, Photo(pixels, "png"))
        np.testing.assert_array_equal(read_photo(folder / name).pixels, pixels)
    np.testing.assert_array_equal(tifffile.imread(folder / "a.tif"), pixels)
    theirs = cv2.imdecode(np.frombuffer((folder / "a.png").read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(theirs[..., ::-1], pixels)


@pytest.mark.parametrize("bits", [8, 16])
def test_each_strip_of_a_png_is_predicted_from_the_one_above(tmp_path, monkeypatch, bits):
    """Of other pictures other predictors are the best: left, above, and their mean."""
    monkeypatch.setattr(png, "_STRIP", 1000)
    y, x = np.mgrid[:90, :60].astype(np.int64)
    rough = np.random.default_rng(0).integers(0, 2**bits, 90)
    meant = np.random.default_rng(1).integers(0, 2**bits, (90, 60))
    for row in range(1, 90):
        for column in range(1, 60):
            meant[row, column] = (meant[row - 1, column] + meant[row, column - 1]) // 2
    used = set()
    for plane in (rough[:60][x], rough[y], meant):
        pixels = np.dstack([plane, plane // 2, plane]).astype(f"uint{bits}")
        write_photo(tmp_path / "a.png", Photo(pixels, "png"))
        data = (tmp_path / "a.png").read_bytes()
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(theirs[..., ::-1], pixels)
        filters = b"".join(data[at + 4 : at + 4 + _length(data, at)] for at in _places(data, b"IDAT"))
        used |= set(zlib.decompress(filters)[:: 1 + pixels[0].nbytes])
    assert used == {1, 2, 3}


def _places(data: bytes, kind: bytes) -> list[int]:
    found, at = [], 8
    while at < len(data):
        if data[at + 4 : at + 8] == kind:
            found.append(at + 4)
        at += 12 + struct.unpack_from(">I", data, at)[0]
    return found


def _length(data: bytes, at: int) -> int:
    return struct.unpack_from(">I", data, at - 4)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_pictures_are_turned_upright_and_say_so(folder, ending, orientation):
    """As Pillow turns them."""
    image = Image.fromarray(smooth())
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    path = folder / f"turned.{ending}"
    if ending == "tif":
        path.write_bytes(tiff_with_exif(smooth(), orientation))
    else:
        image.save(path, exif=camera_exif(orientation), **options)
    tagged = Image.fromarray(smooth())
    tagged.getexif()[exif.ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged)).astype(int)

    photo = read_photo(path)
    assert photo.orientation == orientation
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels - expected).max() <= (6 if ending == "jpg" else 0)
    write_photo(folder / f"out.{ending}", photo)
    with Image.open(folder / f"out.{ending}") as out:
        assert out.getexif().get(exif.ORIENTATION, 1) == 1
        assert out.size == expected.shape[1::-1]
        below = out.getexif().get_ifd(0x8769)
        assert (below[0xA002], below[0xA003]) == out.size
    assert np.abs(read_photo(folder / f"out.{ending}").pixels - expected).max() <= 12


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_exif_profile_and_xmp_go_from_every_kind_to_every_kind(folder, source, to):
    image = Image.fromarray(smooth())
    image.info["dpi"] = (300, 300)
    xmp = XMP % 6
    if source == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        more = {"pnginfo": info, "dpi": (300, 300)}
    else:
        more = {"xmp": xmp} | ({"dpi": (300, 300)} if source == "jpg" else {})
    if source == "tif":
        (folder / "in.tif").write_bytes(tiff_with_exif(smooth(), 1, xmp=xmp, icc=PROFILE))
    else:
        image.save(folder / f"in.{source}", exif=camera_exif(1), icc_profile=PROFILE, **more)
    photo = read_photo(folder / f"in.{source}")
    assert photo.notes == ()
    assert photo.icc == PROFILE
    assert write_photo(folder / f"out.{to}", photo) == ()

    with Image.open(folder / f"out.{to}") as out:
        block = out.getexif()
        assert block[0x010F] == "Kamera"
        assert block[0x0110] == "Modell 7"
        below, place = block.get_ifd(0x8769), block.get_ifd(0x8825)
        assert float(below[0x829A]) == pytest.approx(0.004)
        assert below[0x927C] == b"maker's own" * 5
        assert [float(number) for number in place[2]] == [50, 30, 15]
        assert out.info["icc_profile"] == PROFILE
    back = read_photo(folder / f"out.{to}")
    assert back.icc == PROFILE
    assert back.xmp == XMP % 1
    if "webp" not in (source, to):
        assert back.dpi == pytest.approx((300, 300), abs=0.01)


def test_only_what_must_changes_in_exif_data():
    """Makers' notes hold offsets: nothing may move. The thumbnail, which lies on its side, is unlinked."""
    thumbnail = exif.serialise({0x0201: exif.value(4, 1, 2)}, 1000)
    directory = {
        exif.ORIENTATION: exif.value(3, 6), 0x0100: exif.value(4, 40), 0x010F: exif.raw(b"Camera\0", 2),
        0x8769: {0xA002: exif.value(3, 40), 0xA003: exif.value(4, 30), 0x927C: exif.raw(b"\x10\0\0\0" * 9)},
    }  # fmt: skip
    block = bytearray(exif.build(directory))
    end = 8 + 2 + 12 * len(directory)
    struct.pack_into("<I", block, end, 1000)
    block = bytes(block).ljust(1000, b"\0") + thumbnail
    changed = exif.made_upright(block, 30, 40)
    assert len(changed) == len(block)
    parsed = exif.parse(changed)
    assert exif.orientation(changed) == 1
    assert parsed[0x0100] == exif.value(4, 30)
    assert parsed[0x8769][0xA002] == exif.value(3, 30)
    assert parsed[0x8769][0xA003] == exif.value(4, 40)
    assert parsed[0x010F] == directory[0x010F]
    differing = [at for at in range(len(block)) if block[at] != changed[at]]
    assert 0 < len(differing) <= 5 + 4
    assert struct.unpack_from("<I", changed, end)[0] == 0


def test_exif_of_either_byte_order():
    block = bytes(camera_exif(8).tobytes()).removeprefix(exif.MARK)
    little = exif.parse(block)
    big = struct.pack(">4sIH", b"MM\0*", 8, 2)
    big += struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0) + struct.pack(">HHII", 0x829A, 5, 1, 38) + bytes(4)
    big += struct.pack(">II", 1, 250)
    assert exif.orientation(big) == exif.orientation(block) == 8
    assert exif.parse(big)[0x829A].data == struct.pack("<II", 1, 250)
    assert exif.orientation(exif.made_upright(big, 5, 5)) == 1
    assert exif.parse(exif.build(little)) == little


def test_exif_data_beyond_what_jpeg_holds_lose_the_makers_note_first(folder):
    def written(note: int, comment: int) -> tuple[exif.Directory, tuple[str, ...]]:
        block = exif.build(
            {
                0x010F: exif.raw(b"Kamera\0", 2),
                0x8769: {0x829A: exif.rational(0.004), 0x927C: exif.raw(bytes(note)), 0x9286: exif.raw(bytes(comment))},
            }
        )
        notes = write_photo(folder / "a.jpg", Photo(smooth(), "tiff", exif=block))
        return exif.parse(read_photo(folder / "a.jpg").exif), notes

    found, notes = written(60000, 4000)
    assert notes == ()
    assert set(found[0x8769]) == {0x829A, 0x927C, 0x9286}
    found, notes = written(64000, 4000)
    assert notes == ("the maker's note of the EXIF data left out: more than JPEG can hold",)
    assert found[0x010F].data == b"Kamera\0"
    assert set(found[0x8769]) == {0x829A, 0x9286}
    found, notes = written(10, 66000)
    assert notes == ("EXIF data left out: more than JPEG can hold",)
    assert found == {}


@pytest.mark.parametrize(
    "block",
    [
        b"nonsense",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"II*\0",
        exif.build({1: exif.value(3, 5)})[:12],
    ],
)
def test_damaged_exif_data_are_left_out_and_the_picture_restored(folder, block):
    Image.fromarray(smooth()).save(folder / "a.jpg", exif=exif.MARK + block)
    photo = read_photo(folder / "a.jpg")
    assert photo.exif == b""
    assert photo.notes
    assert "EXIF data left out" in photo.notes[0]


def test_exif_data_that_go_in_circles_end():
    """A directory that is its own sub-directory."""
    block = struct.pack("<4sIHHHII", b"II*\0", 8, 1, 0x8769, 4, 1, 8) + bytes(4)
    with pytest.raises(ValueError, match="circles"):
        exif.parse(block)


def test_png_keeps_its_texts_and_colour_chunks(folder):
    texts = [(b"tEXt", b"Author\0J\xfcrgen"), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(range(32)))]
    old = b"\nexif\n%8d\n%s\n" % (8, exif.build({exif.ORIENTATION: exif.value(3, 3)}).hex().encode())
    plain = cv2.imencode(".png", noise()[..., ::-1])[1].tobytes()
    header, rest = plain[8:33], plain[33:]
    extra = chunked(*texts, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(old)))[8:]
    photo = read_bytes(folder, plain[:8] + header + extra + rest)
    assert photo.orientation == 3  # as ImageMagick wrote it
    np.testing.assert_array_equal(photo.pixels, noise()[::-1, ::-1])
    write_photo(folder / "out.png", photo)
    written = (folder / "out.png").read_bytes()
    assert all(kind + data in written for kind, data in texts)
    assert b"Raw profile" not in written
    assert read_photo(folder / "out.png").orientation == 1


def test_transparent_colours_and_palettes(folder):
    """A colour that is declared transparent becomes alpha; a palette becomes RGB."""
    for bits, channels in ((8, 1), (8, 3), (16, 1), (16, 3)):
        samples = noise(channels, bits)
        key = np.asarray(samples[2, 3], ">u2")
        plain = cv2.imencode(".png", samples if channels == 1 else samples[..., ::-1])[1].tobytes()
        photo = read_bytes(folder, plain[:33] + chunked((b"tRNS", key.tobytes()))[8:] + plain[33:])
        transparent = samples == samples[2, 3]
        transparent = transparent if channels == 1 else transparent.all(2)
        np.testing.assert_array_equal(photo.pixels, samples)
        np.testing.assert_array_equal(photo.alpha, np.where(transparent, 0, 2**bits - 1))
        assert photo.bit_depth == bits
    image = Image.fromarray(smooth()).quantize(16)
    for kind, name in (("PNG", "p.png"), ("TIFF", "p.tif")):
        photo = read_bytes(folder, pillow_bytes(image, kind), name)
        np.testing.assert_array_equal(photo.pixels, np.asarray(image.convert("RGB")))
    image.info["transparency"] = 3
    assert read_bytes(folder, pillow_bytes(image, "PNG", transparency=3)).alpha.min() == 0
    for bits in (2, 4):
        few = Image.fromarray(noise(1) >> (8 - bits))
        data = chunked(
            (b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0" + (b"\x1b" if bits == 2 else b"\x01\x23"))),
            (b"IEND", b""),
        )
        assert few.mode == "L"
        expected = [0, 85, 170, 255] if bits == 2 else [0, 17, 34, 51]
        assert read_bytes(folder, data).pixels[0].tolist() == expected
        keyed = chunked((b"tRNS", struct.pack(">H", 2)))[8:]
        photo = read_bytes(folder, data[:33] + keyed + data[33:])
        assert photo.pixels[0].tolist() == expected
        assert photo.alpha[0].tolist() == [255, 255, 0, 255]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"compression": "zlib", "predictor": True}, {"planarconfig": "separate"}, {"tile": (16, 16)},
        {"byteorder": ">"}, {"bigtiff": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_all_sorts(folder, bits, options, orientation):
    samples = noise(3, bits)
    stored = samples.transpose(2, 0, 1) if "planarconfig" in options else samples
    data = tiff_bytes(stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)], **options)
    photo = read_bytes(folder, data)
    np.testing.assert_array_equal(photo.pixels, samples if orientation == 1 else np.rot90(samples, -1))
    assert photo.orientation == orientation


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_tiff_that_needs_a_codec(folder, orientation):
    """LZW, by which many editors write, of 16 bits by OpenCV and of 8 by Pillow; JPEG inside TIFF by Pillow."""

    tags = {tiff._ORIENTATION: exif.value(3, orientation)}
    for bits in (8, 16):
        for channels in (1, 3, 4):
            samples = noise(channels, bits)
            order = {1: ..., 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
            data = cv2.imencode(".tif", samples if channels == 1 else samples[..., order])[1].tobytes()
            assert exif.parse(data)[259].data[0] == 5, "OpenCV no longer writes LZW"
            photo = read_bytes(folder, retagged(data, tags))
            turned = {
                1: samples,
                3: samples[::-1, ::-1],
                6: np.rot90(samples, -1),
                7: np.rot90(samples, 2).swapaxes(0, 1),
            }
            np.testing.assert_array_equal(photo.samples(), turned[orientation])
    inside = retagged(pillow_bytes(Image.fromarray(smooth()), "TIFF", compression="jpeg", quality=100), tags)
    photo = read_bytes(folder, inside)
    assert photo.size == ((56, 40) if orientation in (6, 7) else (40, 56))


def test_tiffs_alpha_keeps_its_kind_and_white_at_zero_is_turned_over(folder):
    for kind in ("assocalpha", "unassalpha", "unspecified"):
        data = tiff_bytes(noise(4, 16), photometric="rgb", extrasamples=[kind])
        photo = read_bytes(folder, data)
        np.testing.assert_array_equal(photo.samples(), noise(4, 16))
        write_photo(folder / "out.tif", photo)
        with tifffile.TiffFile(folder / "out.tif") as file:
            assert [int(extra) for extra in file.pages[0].extrasamples] == [
                {"unspecified": 0, "assocalpha": 1, "unassalpha": 2}[kind]
            ]
    photo = read_bytes(folder, tiff_bytes(noise(1, 16), photometric="miniswhite"))
    np.testing.assert_array_equal(photo.pixels, 65535 - noise(1, 16))
    assert photo.grey


def test_webp_stays_lossless_and_jpeg_stays_grey(folder):
    rgba = Image.fromarray(noise(4))
    photo = read_bytes(folder, pillow_bytes(rgba, "WEBP", lossless=True, exact=True))
    np.testing.assert_array_equal(photo.samples(), noise(4))
    write_photo(folder / "out.webp", photo)
    np.testing.assert_array_equal(read_photo(folder / "out.webp").samples(), noise(4))
    assert not read_bytes(folder, pillow_bytes(Image.fromarray(smooth()), "WEBP", quality=80)).lossless

    grey = read_bytes(folder, pillow_bytes(Image.fromarray(smooth()[..., 0]), "JPEG", quality=95))
    assert grey.grey
    write_photo(folder / "out.jpg", dataclasses.replace(grey, icc=PROFILE))
    assert Image.open(folder / "out.jpg").mode == "L"
    assert "no grey" in write_photo(folder / "grey.webp", dataclasses.replace(grey, icc=PROFILE))[0]


def test_sixteen_bits_become_eight_to_the_nearest_where_they_must(folder):
    pixels = np.repeat(np.arange(0, 65536, 16, np.uint16).reshape(64, 64)[..., None], 3, axis=2)
    notes = write_photo(folder / "a.webp", dataclasses.replace(Photo(pixels, "webp"), lossless=True))
    assert notes == ("16 bits became 8, WEBP holds no more",)
    np.testing.assert_array_equal(read_photo(folder / "a.webp").pixels, np.rint(pixels / 257))


def _apng() -> bytes:
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    return pillow_bytes(frames[0], "PNG", save_all=True, append_images=frames[1:])


def _cut_lzw() -> bytes:
    """The directory is there, and half of the pixels aren't."""
    data = cv2.imencode(".tif", noise(3, 16))[1].tobytes()
    directory, pixels = exif.parse(data), struct.unpack("<I", exif.parse(data)[273].data[:4])[0]
    half = data[: pixels + 1000]
    return half[:4] + struct.pack("<I", len(half)) + half[8:] + exif.serialise(directory, len(half))


def _bomb() -> bytes:
    return chunked((b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))


REFUSED = {
    "empty": (lambda: b"", "file is empty"),
    "text": (lambda: b"Hello, this is no picture.", "not a picture; valid: JPEG, PNG"),
    "gif": (lambda: pillow_bytes(Image.fromarray(noise()).quantize(8), "GIF"), "is GIF by its content"),
    "heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    "cut jpeg": (lambda: pillow_bytes(Image.fromarray(noise()), "JPEG")[:-400], "JPEG is damaged or cut short"),
    "cut jpeg head": (lambda: pillow_bytes(Image.fromarray(noise()), "JPEG")[:40], "JPEG is damaged or cut short"),
    "cut webp": (lambda: pillow_bytes(Image.fromarray(noise()), "WEBP")[:-400], "WEBP is damaged or cut short"),
    "cut png": (lambda: pillow_bytes(Image.fromarray(noise()), "PNG")[:-30], "PNG is damaged or cut short (ends before"),
    "cut png head": (lambda: pillow_bytes(Image.fromarray(noise()), "PNG")[:20], "PNG is damaged or cut short"),
    "changed png": (
        lambda: pillow_bytes(Image.fromarray(noise()), "PNG").replace(b"IDATx", b"IDATy"),
        "PNG is damaged or cut short (wrong checksum of IDAT)",
    ),
    "cut tiff": (lambda: tiff_bytes(noise(3, 16))[:-900], "TIFF is damaged or cut short"),
    "cut tiff head": (lambda: tiff_bytes(noise(3, 16))[:20], "TIFF is damaged or cut short"),
    "cut lzw tiff": (_cut_lzw, "TIFF, compression LZW, is damaged or cut short, or needs a codec: pip install imagecodecs"),
    "lab tiff": (lambda: pillow_bytes(Image.new("LAB", (9, 9)), "TIFF"), "TIFF is CIE L*a*b*; valid"),
    "one bit png": (lambda: pillow_bytes(Image.new("1", (9, 9)), "PNG"), "PNG is black and white, of 1 bit"),
    "one bit tiff": (lambda: pillow_bytes(Image.new("1", (9, 9)), "TIFF"), "TIFF has samples of 1 bits"),
    "float tiff": (lambda: tiff_bytes(noise().astype(np.float32), photometric="rgb"), "TIFF has float samples of 32 bits"),
    "signed tiff": (lambda: tiff_bytes(noise(1).astype(np.int16)), "TIFF has signed samples of 16 bits"),
    "five channels": (lambda: tiff_bytes(noise(5, 16), photometric="rgb"), "TIFF has 5 samples a pixel"),
    "mosaic": (lambda: tiff_bytes(noise(1, 16), photometric="cfa"), "camera raw; rename it to its own ending"),
    "pages": (lambda: tiff_bytes(np.stack([noise(), noise()]), photometric="rgb"), "TIFF has 2 pages"),
    "animated png": (_apng, "PNG is animated"),
    "animated webp": (
        lambda: pillow_bytes(
            Image.fromarray(noise()), "WEBP", save_all=True, append_images=[Image.fromarray(255 - noise())]
        ),
        "WebP is animated",
    ),
    "bomb": (_bomb, "says it has 60000x60000 pixels, 3,600 megapixels; valid: at most 400 (--max-megapixels)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_restored_is_refused_in_one_line(folder, name, capfd):
    make, message = REFUSED[name]
    with pytest.raises(UserError) as caught:
        read_bytes(folder, make(), "ein Bild.png")
    said = str(caught.value)
    assert message in said
    assert said.startswith(f"{folder / 'ein Bild.png'}: ")
    assert "\n" not in said
    assert capfd.readouterr() == ("", "")


def test_missing_files_folders_and_limits(folder):
    with pytest.raises(UserError, match=r"nichts\.png: file not found"):
        read_photo(folder / "nichts.png")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        read_photo(folder)
    for kind, name in (("JPEG", "a.jpg"), ("PNG", "a.png"), ("TIFF", "a.tif"), ("WEBP", "a.webp")):
        (folder / name).write_bytes(pillow_bytes(Image.fromarray(noise()), kind))
        with pytest.raises(UserError, match="says it has 34x21 pixels"):
            read_photo(folder / name, max_pixels=700)
    limit = Image.MAX_IMAGE_PIXELS
    assert read_photo(folder / "a.jpg", max_pixels=714).size == (21, 34)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_jpeg_of_several_pictures_gives_its_first(folder):
    image = Image.fromarray(smooth())
    image.save(folder / "a.mpo", "MPO", save_all=True, append_images=[Image.fromarray(255 - smooth())], quality=95)
    photo = read_photo(folder / "a.mpo")
    assert np.abs(photo.pixels.astype(int) - smooth()).max() < 20
    assert "first of several" in photo.notes[0]


def test_writing_is_all_or_nothing(folder, monkeypatch):
    path = folder / "out.jpg"
    path.write_bytes(b"mine")
    rgba = Photo(noise(3), "png", noise(1))
    with pytest.raises(UserError, match=r"JPEG can't hold the alpha channel; valid: --format png"):
        write_photo(path, rgba)
    with pytest.raises(UserError, match="WEBP holds at most 16383 pixels a side, not 16384x1"):
        write_photo(folder / "wide.webp", Photo(np.zeros((1, 16384, 3), np.uint8), "png"))
    with pytest.raises(UserError, match=r"written as .jpg.*'.bmp' is none of them"):
        write_photo(folder / "a.bmp", rgba)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(png, "write_samples", full)
    with pytest.raises(UserError, match=r"out\.png: can't be written: No space left on device") as caught:
        write_photo(folder / "out.png", rgba)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_bytes() == b"mine"
    assert [each.name for each in folder.iterdir()] == ["out.jpg"]


def test_tiff_beyond_its_offsets_is_refused():
    with pytest.raises(ValueError, match="4 GiB"):
        exif.serialise({1: exif.value(4, 1)}, 2**32 - 10)


def write_dng(path: Path, orientation: int = 6, height: int = 48, width: int = 64) -> Path:
    """A mosaic of flat red, green and blue: the smallest DNG that LibRaw takes."""

    def numbers(kind: int, *values: float) -> exif.Value:
        packed = b"".join(struct.pack("<ii", round(value * 10000), 10000) for value in values)
        return exif.Value(kind, len(values), packed)

    mosaic = np.zeros((height, width), "<u2")
    mosaic[0::2, 0::2], mosaic[0::2, 1::2], mosaic[1::2, 0::2], mosaic[1::2, 1::2] = 24000, 12000, 12000, 3000
    mosaic[: height // 2] //= 4
    directory = {
        254: exif.value(4, 0), 256: exif.value(4, width), 257: exif.value(4, height), 258: exif.value(3, 16),
        259: exif.value(3, 1), 262: exif.value(3, 32803), 271: exif.raw(b"Test\0", 2), 272: exif.raw(b"Model\0", 2),
        273: exif.value(4, 8), 274: exif.value(3, orientation), 277: exif.value(3, 1), 278: exif.value(4, height),
        279: exif.value(4, mosaic.nbytes), 33421: exif.value(3, 2, 2), 33422: exif.raw(bytes([0, 1, 1, 2]), 1),
        50706: exif.raw(bytes([1, 4, 0, 0]), 1), 50707: exif.raw(bytes([1, 1, 0, 0]), 1),
        50708: exif.raw(b"Test Model\0", 2), 50717: exif.value(4, 32767),
        50721: numbers(10, 1, 0, 0, 0, 1, 0, 0, 0, 1), 50728: numbers(5, 1, 1, 1), 50778: exif.value(3, 21),
        0x8769: {0x829A: numbers(5, 0.01)},
    }  # fmt: skip
    body = mosaic.tobytes()
    path.write_bytes(struct.pack("<4sI", b"II*\0", 8 + len(body)) + body + exif.serialise(directory, 8 + len(body)))
    return path


def test_camera_raw_is_developed_upright_with_16_bits(folder):
    pytest.importorskip("rawpy", reason="camera raw needs the optional package rawpy")
    photo = read_photo(write_dng(folder / "IMG 1.DNG"))
    assert (photo.format, photo.bit_depth, photo.size) == ("raw", 16, (64, 48))
    # Turned by 90 degrees: the dark upper half of the sensor lies right.
    assert photo.pixels[:, :16].mean() > 1.5 * photo.pixels[:, 32:].mean()
    red, green, blue = photo.pixels[8:-8, 8:16].reshape(-1, 3).mean(0)
    assert red > 2 * max(green, blue)
    assert photo.icc
    tags = exif.parse(photo.exif)
    assert tags[0x010F].data == b"Test\0"
    assert tags[0x8769][0x829A].count == 1
    write_photo(folder / "out.tif", photo)
    assert tifffile.imread(folder / "out.tif").dtype == np.uint16
    (folder / "broken.nef").write_bytes(b"nothing that LibRaw knows")
    with pytest.raises(UserError, match=r"broken.nef: LibRaw can't read it as camera raw"):
        read_photo(folder / "broken.nef")


def test_camera_raw_without_rawpy_names_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(UserError, match=r"a.cr2: camera raw needs rawpy: pip install 'ifan_plugin\[raw\]'"):
        read_bytes(folder, b"II*\0", "a.cr2")
    assert not raw.is_available()


CAPTION = b"\x1c\x02\x78\0\x09A caption"


def jpeg_with_captions() -> bytes:
    """Photoshop's resources: a thumbnail, which is of the blurred picture, and IPTC; and two comments."""
    blocks = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 5) + b"thumb\0" + resources.of_iptc(CAPTION)
    plain = pillow_bytes(Image.fromarray(smooth()), "JPEG", quality=95)
    return plain[:2] + jpeg.segments(blocks, (b"one", b"two \xfc")) + plain[2:]


@pytest.mark.parametrize("to", FORMATS)
def test_captions_and_comments_go_where_there_is_room_for_them(folder, to):
    photo = read_bytes(folder, jpeg_with_captions())
    assert photo.comments == (b"one", b"two \xfc")
    assert b"thumb" not in photo.resources
    notes = write_photo(folder / f"out.{to}", photo)
    back = read_photo(folder / f"out.{to}")
    if to == "webp":
        assert notes == ("captions (IPTC) and comments left out: WebP has no place for them",)
        return
    assert notes == ()
    assert resources.iptc_of(back.resources) == CAPTION
    if to == "jpg":
        assert back.comments == photo.comments
        with Image.open(folder / "out.jpg") as image:
            assert image.info["photoshop"] == {0x0404: CAPTION}
            assert image.info["comment"] == b"two \xfc"
    elif to == "png":
        assert back.comments == photo.comments
    else:
        assert exif.parse((folder / "out.tif").read_bytes())[0x010E].data == b"one\0"
    # And back again, which for TIFF begins with a file that has records alone, as 32-bit numbers.
    if to == "tif":
        records = exif.Value(4, 4, CAPTION.ljust(16, b"\0"))
        back = read_bytes(folder, retagged(tiff_bytes(smooth(), photometric="rgb"), {33723: records}))
    write_photo(folder / "again.jpg", back)
    assert resources.iptc_of(read_photo(folder / "again.jpg").resources) == CAPTION


@pytest.mark.parametrize("blocks", [b"8BIM", b"8BIM\x04\x04\0\0\0\0\xff\xff", b"nonsense", b"8BIM\x04\x04\xff"])
def test_damaged_captions_are_left_out(folder, blocks):
    plain = pillow_bytes(Image.fromarray(smooth()), "JPEG")
    photo = read_bytes(folder, plain[:2] + jpeg.segments(blocks, ()) + plain[2:])
    assert photo.resources == b""
    assert any("Photoshop's resources" in note and "left out" in note for note in photo.notes)


def test_opaque_alpha_is_no_loss_in_jpeg(folder):
    notes = write_photo(folder / "a.jpg", Photo(smooth(), "png", np.full(smooth().shape[:2], 255, np.uint8)))
    assert notes == ("alpha channel left out: it was opaque everywhere",)
    assert read_photo(folder / "a.jpg").alpha is None


def test_a_motion_photo_no_longer_says_that_it_moves(folder):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description GCamera:MotionPhoto="1" GCamera:MicroVideo="1"/></x:xmpmeta>'
    photo = read_bytes(folder, pillow_bytes(Image.fromarray(smooth()), "JPEG", xmp=xmp) + b"\0\0\0\x18ftypmp42" * 9)
    assert b'MotionPhoto="0" GCamera:MicroVideo="0"' in photo.xmp
