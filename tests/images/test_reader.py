"""One table of files, read as photographs (``read_photo``) and for data sets (``decode_pixels``): the same, everywhere."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, features

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats.photo import turned
from ifan_plugin.images.image_io import decode_pixels, read_header
from ifan_plugin.images.reader import PICTURE_SUFFIXES, decode, read_photo

HEIGHT, WIDTH = 40, 56


def smooth() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([4 * x, 5 * y, 255 - 2 * (x + y)]).clip(0, 255).astype(np.uint8)


RGB = smooth()
DEEP = (RGB.astype(np.uint16) << 8) | 0x5A


def packed(kind: str, image: np.ndarray | Image.Image = RGB, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def orientation(order: str, kind: int, value: int) -> bytes:
    """EXIF data of the one tag, as BYTE (1), SHORT (3), LONG (4), or with a sign (6, 8, 9)."""
    end = "<" if order == "II" else ">"
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
    stored = struct.pack(end + code, value).ljust(4, b"\0")
    return order.encode() + struct.pack(end + "HIHHHI", 42, 8, 1, 0x112, kind, 1) + stored + bytes(4)


JPEG, PNG = packed("JPEG", quality=95), packed("PNG")
DEEP_PNG = cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes()
LOSSY = np.asarray(Image.open(io.BytesIO(JPEG)))
GREY_JPEG = packed("JPEG", RGB[..., 0], quality=95)
NOISE = np.random.default_rng(0).bytes(1_500_000)


def in_jpeg(block: bytes) -> bytes:
    return JPEG[:2] + segment(0xE1, b"Exif\0\0" + block) + JPEG[2:]


def in_png(*chunks: bytes, png: bytes = PNG) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def spoilt(piece: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return piece[:-1] + bytes([piece[-1] ^ 1])


def tiff(samples: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def alpha(value: int, mode: str = "RGBA") -> Image.Image:
    image = Image.fromarray(RGB).convert(mode[:-1])
    image.putalpha(value)
    return image


def interlaced(samples: np.ndarray) -> bytes:
    """OpenCV and Pillow write no interlaced PNG."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(
        b"\0" + row.astype(f">u{row.itemsize}").tobytes() for x, y, dx, dy in passes for row in samples[y::dy, x::dx]
    )
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8 * samples.itemsize, 2, 0, 0, 1)
    return PNG[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


GREY = np.repeat(RGB[..., :1], 3, axis=2)
GREY_LOSSY = np.repeat(np.asarray(Image.open(io.BytesIO(GREY_JPEG)))[..., None], 3, axis=2)
PALETTE = Image.fromarray(RGB).quantize(64)
FEW = np.asarray(PALETTE.convert("RGB"))
PROGRESSIVE = packed("JPEG", quality=95, progressive=True)
FILM = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" + b"\1" * 500
BIG_ENDIAN = {"byteorder": ">", "photometric": "rgb"}
EXIF_TEXT = b"\nexif\n%8d\n%s\n" % (26, orientation("II", 3, 6).hex().encode())

TAKEN = {
    # plain
    "png": (PNG, RGB), "16-bit png": (DEEP_PNG, DEEP), "jpeg": (JPEG, LOSSY), "bmp": (packed("BMP"), RGB),
    "webp": (packed("WEBP", lossless=True), RGB), "tiff": (tiff(RGB, photometric="rgb"), RGB),
    "16-bit tiff": (tiff(DEEP, photometric="rgb"), DEEP), "big-endian tiff": (tiff(DEEP, **BIG_ENDIAN), DEEP),
    "progressive jpeg": (PROGRESSIVE, np.asarray(Image.open(io.BytesIO(PROGRESSIVE)))),
    "interlaced png": (interlaced(RGB), RGB), "interlaced 16-bit png": (interlaced(DEEP), DEEP),
    # turned, whatever the kind of file and of tag
    **{
        f"{order} {kind} {value} in jpeg": (in_jpeg(orientation(order, kind, value)), turned(LOSSY, value))
        for order in ("II", "MM") for kind in (1, 3, 4, 6, 8, 9) for value in (3, 6, 7)
    },
    **{
        f"{order} {kind} in {name}": (make(orientation(order, kind, 8)), turned(RGB, 8))
        for order in ("II", "MM") for kind in (1, 3, 4)
        for name, make in {
            "png": lambda block: in_png(chunk(b"eXIf", block)),
            "png behind its pixels": lambda block: PNG[:-12] + chunk(b"eXIf", block) + PNG[-12:],
            "webp": lambda block: packed("WEBP", lossless=True, exif=block),
        }.items()
    },
    **{
        f"{order}{kind} in tiff": (
            tiff(RGB, photometric="rgb", byteorder=order, extratags=[(274, kind, 1, 6, True)]), turned(RGB, 6)
        )
        for order in "<>" for kind in "BHI"
    },
    "lzw tiff, turned by a LONG": (
        packed("TIFF", compression="tiff_lzw", tiffinfo={274: 6}), turned(RGB, 6)
    ),
    "exif as text in png": (in_png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(EXIF_TEXT))), turned(RGB, 6)),
    **{f"orientation {value} is none": (in_jpeg(orientation("II", 3, value)), LOSSY) for value in (0, 9, 65535)},
    "damaged exif": (in_jpeg(b"II*\0\xff\xff\xff\xff"), LOSSY),
    # what follows the end, and an end that is missing
    "motion photo": (JPEG + FILM, LOSSY), "zeros behind a jpeg": (JPEG + bytes(99), LOSSY), "bytes behind a png": (PNG + FILM, RGB),
    "jpeg without end": (JPEG[:-2], LOSSY), "jpeg with half an end": (JPEG[:-1], LOSSY),
    "progressive without end": (PROGRESSIVE[:-2], np.asarray(Image.open(io.BytesIO(PROGRESSIVE)))),
    "grey jpeg without end": (GREY_JPEG[:-2], GREY_LOSSY),
    "png without end": (PNG[:-12], RGB), "png with half an end": (PNG[:-5], RGB), "16-bit png without end": (DEEP_PNG[:-12], DEEP),
    "interlaced png without end": (interlaced(RGB)[:-12], RGB),
    # pieces beside the pixels
    "large profile": (in_png(chunk(b"iCCP", b"ICC\0\0" + zlib.compress(NOISE))), RGB),
    "bad profile": (in_png(chunk(b"iCCP", b"x\0\0garbage")), RGB),
    "profile without end": (in_png(chunk(b"iCCP", b"x")), RGB),
    "large text": (in_png(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b'{"a":1}' * 300_000))), RGB),
    "bad text": (in_png(chunk(b"zTXt", b"x\0\0garbage"), chunk(b"iTXt", b"XML:com.adobe.xmp\0"), chunk(b"tEXt", b"")), RGB),
    "wrong checksum beside": (in_png(spoilt(chunk(b"tEXt", b"a\0b")), spoilt(chunk(b"gAMA", b"abcd"))), RGB),
    "short colour chunks": (in_png(chunk(b"gAMA", b"a"), chunk(b"cHRM", b"b"), chunk(b"pHYs", b"c")), RGB),
    "bad exif in png": (in_png(chunk(b"eXIf", b"nonsense")), RGB),
    "bad profile, 16 bits": (in_png(chunk(b"iCCP", b"x\0\0garbage"), png=DEEP_PNG), DEEP),
    "a spoilt end mark": (PNG[:-1] + b"x", RGB), "a spoilt name": (in_png(b"\0\0\0\1XXIf" + bytes(5)), RGB),
    "unknown chunk": (in_png(chunk(b"vpAg", b"x")), RGB),
    # what becomes RGB without loss
    "grey png": (packed("PNG", RGB[..., 0]), GREY), "grey jpeg": (GREY_JPEG, GREY_LOSSY),
    "16-bit grey png": (cv2.imencode(".png", DEEP[..., 0])[1].tobytes(), np.repeat(DEEP[..., :1], 3, axis=2)),
    "grey tiff": (tiff(RGB[..., 0]), GREY), "palette": (packed("PNG", PALETTE), FEW), "palette bmp": (packed("BMP", PALETTE), FEW),
    "opaque rgba": (packed("PNG", alpha(255)), RGB), "opaque rgba webp": (packed("WEBP", alpha(255), lossless=True), RGB),
    "opaque grey": (packed("PNG", alpha(255, "LA")), np.repeat(np.asarray(Image.fromarray(RGB).convert("L"))[..., None], 3, axis=2)),
    "a transparent colour that isn't there": (in_png(chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))), RGB),
    "jpeg in tiff": (packed("TIFF", compression="jpeg", quality=95), None),
    "cmyk without profile": (packed("JPEG", Image.fromarray(RGB).convert("CMYK"), quality=100), None),
    "cmyk tiff": (packed("TIFF", Image.fromarray(RGB).convert("CMYK")), RGB),
    "two pictures": (packed("MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)], quality=95), LOSSY),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_both_ways_of_reading_give_the_same(tmp_path, name, capfd):
    data, expected = TAKEN[name]
    photo = decode(data, name)
    if photo.alpha is not None:
        assert photo.alpha.min() == np.iinfo(photo.alpha.dtype).max
    pixels = np.repeat(photo.pixels[..., None], 3, axis=2) if photo.grey else photo.pixels
    if expected is not None:
        np.testing.assert_array_equal(pixels, expected)
    else:
        assert np.abs(pixels.astype(int) - RGB).max() < 40
    np.testing.assert_array_equal(decode_pixels(data, name), pixels)
    path = tmp_path / "named.png"  # by its content
    path.write_bytes(data)
    header = read_header(path)
    assert (header.height, header.width, header.bit_depth) == (*photo.size, photo.bit_depth)
    np.testing.assert_array_equal(read_photo(path).pixels, photo.pixels)
    assert capfd.readouterr() == ("", ""), "a library remarks on it"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("motion photo", "behind the picture's end"), ("jpeg without end", "end mark is missing"),
        ("png without end", "end mark is missing"), ("large profile", "colour profile left out: more than 1 MiB"),
        ("bad profile", "colour profile left out"), ("large text", "text 'workflow' left out: more than 1 MiB"),
        ("wrong checksum beside", "tEXt left out: wrong checksum"), ("short colour chunks", "cHRM left out: damaged"),
        ("damaged exif", "EXIF data left out"), ("two pictures", "the first of several"),
        ("cmyk without profile", "converted to sRGB without a profile"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_said(name, words):
    assert any(words in note for note in decode(TAKEN[name][0], name).notes)


@pytest.mark.parametrize(
    "name", ["png", "16-bit png", "jpeg", "II 3 3 in jpeg", "interlaced png", "zeros behind a jpeg"]
)
def test_plain_files_and_most_others_have_no_notes(name):
    assert [note for note in decode(TAKEN[name][0], name).notes if "behind" not in note] == []


def animated(kind: str) -> bytes:
    return packed(
        kind,
        save_all=True,
        append_images=[Image.fromarray(255 - RGB)],
        **({"lossless": True} if kind == "WEBP" else {}),
    )


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


REFUSED = {
    "empty": (b"", "file is empty"), "text": (b"no picture at all", "not a picture"),
    "gif": (packed("GIF", PALETTE), "is GIF by its content"), "animated gif": (animated("GIF"), "is GIF by its content"),
    "animated png": (animated("PNG"), "is animated"), "animated webp": (animated("WEBP"), "is animated"),
    "pages": (packed("TIFF", save_all=True, append_images=[Image.fromarray(RGB)]), "2 pages"),
    "one bit": (packed("PNG", Image.fromarray(RGB).convert("1")), "1 bit"),
    "one bit bmp": (packed("BMP", Image.fromarray(RGB).convert("1")), "1 bit"),
    "float tiff": (tiff(RGB.astype(np.float32), photometric="rgb"), "float samples"),
    **{
        f"half of {name}": (half(data), "damaged or cut short")
        for name, data in {
            "jpeg": JPEG, "png": PNG, "progressive jpeg": PROGRESSIVE, "16-bit png": DEEP_PNG, "webp": packed("WEBP"),
            "tiff": tiff(DEEP, photometric="rgb"), "bmp": packed("BMP"), "interlaced png": interlaced(RGB),
        }.items()
    },
    "jpeg's last pixels": (packed("JPEG", np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))[:-9], "truncated"),
    "progressive without its last scan": (PROGRESSIVE[: PROGRESSIVE.rfind(b"\xff\xc4")], "truncated"),
    "changed pixels": (PNG.replace(b"IDATx", b"IDATy"), "wrong checksum of IDAT"),
    "png without pixels": (PNG[:33] + PNG[-12:], "damaged"),
    "jpeg's head": (JPEG[:100], "truncated"), "png's head": (PNG[:30], "truncated"), "two bytes": (b"\xff\xd8\xff", "truncated"),
    "film": (b"\0\0\0\x18ftypmp42" + bytes(99), "is a film by its content"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "is JPEG 2000 by its content"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_both_ways_of_reading_refuse_the_same(name, capfd):
    data, words = REFUSED[name]
    said = []
    for read in (decode, decode_pixels):
        with pytest.raises(UserError) as caught:
            read(data, "a file.png")
        said.append(str(caught.value))
    assert said[0].split("; valid")[0] == said[1].split("; valid")[0]
    assert said[0].startswith("a file.png: ")
    assert words in said[0]
    assert "\n" not in said[0]
    if name != "changed pixels":  # on which libpng itself remarks within OpenCV
        assert capfd.readouterr() == ("", "")


def cmyk_profile(ink: tuple[int, int, int]) -> bytes:
    """A colour profile of a press whose every ink leaves the same colour (8-bit L*a*b*), and whose paper is white."""
    table = bytes([255, 128, 128]) + bytes(ink) * 15  # CMYK in steps of 0 and 1
    lines = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + lines * 4 + table + lines * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, at = [(b"A2B0", lut), (b"A2B1", lut), (b"wtpt", white)], 128 + 4 + 12 * 3
    index = body = b""
    for name, content in tags:
        index += name + struct.pack(">II", at + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", 3) + index + body


def test_cmyk_is_converted_through_its_profile():
    image = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    for kind in ("JPEG", "TIFF"):
        options = {"quality": 100} if kind == "JPEG" else {}
        naive = decode(packed(kind, image, **options), "a")
        assert naive.pixels[4, 6].max() < 8
        red = packed(kind, image, icc_profile=cmyk_profile((128, 200, 190)), **options)
        photo = decode(red, "a")
        assert photo.notes == ("CMYK, converted to sRGB through its profile",)
        assert photo.pixels[4, 6, 0] > 180
        assert photo.pixels[4, 6, 1:].max() < 60
        assert photo.pixels[4, 1].min() > 240
        np.testing.assert_array_equal(decode_pixels(red, "a"), photo.pixels)
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        unusable = decode(packed(kind, image, icc_profile=srgb, **options), "a")
        assert "without its profile, which can't be used" in unusable.notes[0]
        assert naive.icc[36:40] == photo.icc[36:40] == b"acsp"
        np.testing.assert_array_equal(unusable.pixels, naive.pixels)


def test_avif_and_heic(tmp_path, monkeypatch):
    block = orientation("MM", 3, 6)
    if features.check("avif"):
        data = packed("AVIF", quality=100, subsampling="4:4:4", exif=block)
        photo = decode(data, "a")
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(photo.pixels, turned(expected, photo.orientation))
        np.testing.assert_array_equal(decode_pixels(data, "a"), photo.pixels)
        assert photo.size == (WIDTH, HEIGHT)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(UserError, match=r"HEIC needs pillow-heif: pip install 'ifan_plugin\[heif\]'"):
            decode(b"\0\0\0\x18ftypheic\0\0\0\0", "a")
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs the optional package pillow-heif")
    for bits, pixels in ((8, RGB), (16, DEEP)):
        file = io.BytesIO()
        heif = pillow_heif.from_bytes("RGB" if bits == 8 else "RGB;16", (WIDTH, HEIGHT), pixels.tobytes())
        heif.save(file, quality=-1, exif=b"Exif\0\0" + block)
        photo = decode(file.getvalue(), "a")
        assert photo.bit_depth == bits
        assert photo.size == (WIDTH, HEIGHT)
        difference = photo.pixels.astype(int) - turned(pixels, 6)
        assert np.abs(difference).mean() < 2 * 2 ** (bits - 8)
        np.testing.assert_array_equal(decode_pixels(file.getvalue(), "a"), photo.pixels)


def test_every_ending_is_looked_for():
    assert {".jfif", ".jpe", ".bmp", ".heic", ".avif"} <= PICTURE_SUFFIXES
