"""Reading and writing pictures: exact values, odd names, and every kind of file that must be refused."""

from __future__ import annotations

import io
import os
import stat

import cv2
import numpy as np
import pytest
from PIL import Image

from ifan_plugin.common.errors import UserError
from ifan_plugin.images import image_io
from ifan_plugin.images.image_io import decode_image, image_size, read_header, read_image, write_image


def noise(height=12, width=10, bits=16, channels=3, seed=0):
    dtype = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels)).astype(dtype)


def save(path, rgb):
    """Write integer samples with OpenCV alone, so that reading isn't tested against our own writing."""
    done, data = cv2.imencode(path.suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    assert done
    path.write_bytes(data.tobytes())
    return path


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_8_bit_values_are_fractions_of_255(tmp_path):
    rgb = noise(bits=8)
    image = read_image(save(tmp_path / "a.png", rgb), 8)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, rgb.astype(np.float32) / np.float32(255))


def test_16_bit_values_are_fractions_of_65535(tmp_path):
    rgb = noise()
    image = read_image(save(tmp_path / "a.png", rgb), 16)
    np.testing.assert_array_equal(image, rgb.astype(np.float32) / np.float32(65535))


def test_16_bit_file_read_as_8_bits_is_shifted_as_opencv_reads_colour(tmp_path):
    rgb = noise()
    path = save(tmp_path / "a.png", rgb)
    as_bytes = np.rint(read_image(path, 8) * 255).astype(np.uint8)
    np.testing.assert_array_equal(as_bytes, rgb >> 8)
    np.testing.assert_array_equal(as_bytes, cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
    assert (np.rint(rgb / 257) != rgb >> 8).any()  # rounding would be something else


def test_depth_none_takes_the_files_own(tmp_path):
    deep, shallow = noise(), noise(bits=8)
    np.testing.assert_array_equal(
        np.rint(read_image(save(tmp_path / "a.png", deep), None) * 65535).astype(np.uint16), deep
    )
    np.testing.assert_array_equal(
        np.rint(read_image(save(tmp_path / "b.png", shallow), None) * 255).astype(np.uint8), shallow
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_round_trip_is_exact_for_every_level(tmp_path, bits):
    levels = np.arange(2**bits, dtype=np.float32).reshape(-1, 16)
    rgb = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1) / np.float32(2**bits - 1)
    path = tmp_path / "levels.png"
    write_image(path, rgb, bits)
    assert read_header(path).bit_depth == bits
    np.testing.assert_array_equal(read_image(path, bits), rgb)


def test_writing_rounds_and_clips(tmp_path):
    rgb = np.zeros((1, 4, 3))
    rgb[0, :, 0] = [-0.5, 100.4 / 255, 100.6 / 255, 1.5]
    write_image(tmp_path / "a.png", rgb, 8)
    stored = np.rint(read_image(tmp_path / "a.png", 8)[0, :, 0] * 255)
    assert stored.tolist() == [0, 100, 101, 255]


def test_writing_creates_folders_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "er" / "a.png"
    write_image(path, np.zeros((4, 4, 3)), 8)
    write_image(path, np.ones((4, 4, 3)), 8)
    assert read_image(path, 8).min() == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask  # as any file the user makes


def test_a_failed_write_keeps_the_old_file_and_no_leftover(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, np.ones((4, 4, 3)), 8)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_io.os, "replace", fail)
    message = refusal(write_image, path, np.zeros((4, 4, 3)), 8)
    assert "a.png" in message
    assert "No space left" in message
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert read_image(path, 8).min() == 1


def test_writing_refuses_what_cant_be_stored(tmp_path):
    assert "a.jpg" in refusal(write_image, tmp_path / "a.jpg", np.zeros((4, 4, 3)), 8)
    broken = np.zeros((4, 4, 3))
    broken[1, 2, 0] = np.nan
    assert "NaN" in refusal(write_image, tmp_path / "a.png", broken, 8)
    (tmp_path / "file").write_text("")
    assert "can't be made" in refusal(write_image, tmp_path / "file" / "a.png", np.zeros((4, 4, 3)), 8)
    with pytest.raises(ValueError, match="float array"):
        write_image(tmp_path / "a.png", noise(), 16)
    with pytest.raises(ValueError, match="bit_depth"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 3)), 12)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["two words.png", "Übergröße ß.png", "焦点.png", "100% #1 'q'.png"])
def test_names_with_spaces_and_other_letters(tmp_path, name):
    rgb = noise(bits=8).astype(np.float32) / np.float32(255)
    write_image(tmp_path / name, rgb, 8)
    np.testing.assert_array_equal(read_image(tmp_path / name, 8), rgb)
    assert image_size(tmp_path / name) == (12, 10)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_size_is_height_then_width(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", noise(bits=8))
    assert image_size(path) == (12, 10)
    assert read_image(path, 8).shape == (12, 10, 3)
    assert read_header(path)[2:] == (8, "rgb")


def test_png_and_jpeg_sizes_come_from_the_header_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(image_io.cv2, "imdecode", None)
    assert image_size(save(tmp_path / "a.png", noise())) == (12, 10)
    assert image_size(save(tmp_path / "a.jpg", noise(bits=8))) == (12, 10)


def test_the_kind_of_file_is_told_by_its_content(tmp_path):
    jpeg = save(tmp_path / "a.jpg", noise(bits=8)).rename(tmp_path / "really a jpeg.png")
    assert image_size(jpeg) == (12, 10)
    assert read_image(jpeg).shape == (12, 10, 3)


def test_jpeg_is_turned_upright_and_its_size_too(tmp_path):
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, :16, 0] = 255  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape[:2] == image_size(tmp_path / "a.jpg") == (32, 16)
    assert image[2, 8, 0] > 0.9
    assert image[-2, 8, 0] < 0.1


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99, -100])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_files_are_refused(tmp_path, suffix, part):
    path = save(tmp_path / f"cut{suffix}", noise(64, 48, bits=8))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data)) if part > 0 else part])
    message = refusal(read_image, path, 8)
    assert path.name in message
    assert "truncated" in message


def test_truncation_is_found_without_the_decoders_help(tmp_path, monkeypatch):
    # Some OpenCV versions return the rows they got; ours must not depend on it.
    path = save(tmp_path / "a.png", noise(64, 48))
    whole = path.read_bytes()
    monkeypatch.setattr(image_io.cv2, "imdecode", lambda *_: noise(64, 48))
    assert decode_image(whole, "a.png", 16).shape == (64, 48, 3)
    for cut in (1, 8, 12, 16):  # no more than the end mark and a checksum
        assert decode_image(whole[:-cut], "a.png", 16).shape == (64, 48, 3)
    for cut in (100, 5000):
        assert "truncated" in refusal(decode_image, whole[:-cut], "a.png", 16)


def test_bytes_behind_the_end_are_no_fault(tmp_path):
    for suffix in (".png", ".jpg"):
        path = save(tmp_path / f"a{suffix}", noise(bits=8))
        path.write_bytes(path.read_bytes() + bytes(50))
        assert read_image(path).shape == (12, 10, 3)


def test_8_bits_where_16_are_asked_for(tmp_path):
    path = save(tmp_path / "shallow.png", noise(bits=8))
    message = refusal(read_image, path, 16)
    assert "shallow.png" in message
    assert "16" in message
    assert "bit_depth: 8" in message
    assert "photo.jpg" in refusal(read_image, save(tmp_path / "photo.jpg", noise(bits=8)), 16)


@pytest.mark.parametrize(
    ("mode", "suffix", "word"),
    [
        ("L", ".png", "grey"), ("LA", ".png", "grey with alpha"), ("RGBA", ".png", "rgba"), ("P", ".png", "palette"),
        ("L", ".jpg", "grey"), ("CMYK", ".jpg", "cmyk"), ("L", ".tif", "grey"), ("RGBA", ".tif", "rgba"),
    ],
)  # fmt: skip
def test_other_colour_types_become_rgb(tmp_path, mode, suffix, word):
    path = tmp_path / f"odd{suffix}"
    picture = Image.fromarray(noise(bits=8)).convert(mode)
    picture.save(path, **({"quality": 100} if suffix == ".jpg" else {}))
    assert read_header(path).colour == word
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(np.rint(read_image(path, 8) * 255), expected)


@pytest.mark.parametrize(("mode", "suffix", "word"), [
    ("LA", ".png", "is grey with alpha, not opaque"), ("RGBA", ".png", "is rgba, not opaque"),
    ("RGBA", ".webp", "is rgba, not opaque"), ("1", ".png", "1 bit"),
])  # fmt: skip
def test_transparent_and_black_and_white_pictures_are_refused(tmp_path, mode, suffix, word):
    path = tmp_path / f"odd{suffix}"
    picture = Image.fromarray(noise(bits=8)).convert(mode)
    if mode != "1":
        picture.putalpha(100)
    picture.save(path)
    message = refusal(read_image, path, 8)
    assert path.name in message
    assert word in message


def test_all_transparent_pictures_are_named_at_once(tmp_path):
    paths = []
    for number, alpha in enumerate((255, 100, 255, 0, 254)):
        picture = Image.fromarray(noise(bits=8))
        picture.putalpha(alpha)
        paths.append(tmp_path / f"{number}.png")
        picture.save(paths[-1])
    message = refusal(image_io.require_opaque, paths)
    assert message.startswith(f"{paths[1]}: picture is rgba, not opaque")
    assert message.endswith("so with 2 more: 3.png, 4.png")
    image_io.require_opaque([paths[0], paths[2]])


def test_16_bit_grey_becomes_rgb_and_a_transparent_colour_is_refused(tmp_path):
    grey = save(tmp_path / "grey.png", noise()[..., 0])
    stored = np.rint(read_image(grey, 16) * 65535)
    np.testing.assert_array_equal(stored, np.repeat(noise()[..., :1], 3, axis=2))
    rgb = noise(bits=8)
    Image.fromarray(rgb).save(tmp_path / "hole.png", transparency=tuple(int(v) for v in rgb[0, 0]))
    assert "not opaque" in refusal(read_image, tmp_path / "hole.png", 8)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_files_that_are_no_pictures(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for call in (read_image, image_size):
        assert "broken.png" in refusal(call, path)


def test_damaged_png_is_refused(tmp_path):
    path = save(tmp_path / "damaged.png", noise(64, 48))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "damaged.png" in refusal(read_image, path, 16)


def test_missing_file_and_folder(tmp_path):
    for call in (read_image, image_size):
        assert "nowhere.png: file not found" in refusal(call, tmp_path / "nowhere.png")
        assert tmp_path.name in refusal(call, tmp_path)


def test_unknown_depth_is_a_programming_error():
    buffer = io.BytesIO()
    Image.fromarray(noise(bits=8)).save(buffer, "png")
    with pytest.raises(ValueError, match="bit_depth"):
        decode_image(buffer.getvalue(), "a.png", 12)
