"""Reading pictures from LMDB: values and parts, processes, and every kind of database that must be refused."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from helpers import write_lmdb

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.lmdb.read import LmdbInfo, LmdbPictures, safe_key
from ifan_plugin.images.image_io import Region


def picture(seed, height=30, width=41, bits=16):
    dtype = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, 3)).astype(dtype)


def pictures(count=4, **kwargs):
    return {f"scene Ä{number}": picture(number, **kwargs) for number in range(count)}


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_values_and_parts(tmp_path, encoding, bits):
    truth = pictures(bits=bits)
    database = LmdbPictures(write_lmdb(tmp_path / "Blau 1.lmdb", truth, encoding))
    assert len(database) == 4
    assert [entry.key for entry in database.entries] == list(truth)
    assert database.info == LmdbInfo(encoding, bits, 4)
    database.check()
    for key, pixels in truth.items():
        assert key in database
        assert database.size(key) == (30, 41)
        got = database.read(key)
        assert got.dtype == pixels.dtype
        np.testing.assert_array_equal(got, pixels)
        np.testing.assert_array_equal(database.read(key, Region(3, 5, 20, 36)), pixels[3:23, 5:41])
    assert "other" not in database


def test_a_value_is_asked_for_once_a_process(tmp_path):
    """The binding touches all of a value each time it is asked: a crop is to touch its rows alone."""
    database = LmdbPictures(write_lmdb(tmp_path / "a.lmdb", pictures(), "raw"))
    value = database.value("scene Ä0")
    assert len(value) == 30 * 41 * 3 * 2
    database.read("scene Ä0", Region(0, 0, 2, 2))
    assert database.value("scene Ä0") is value


def test_what_was_read_outlives_the_database(tmp_path):
    database = LmdbPictures(write_lmdb(tmp_path / "a.lmdb", pictures(), "raw"))
    pixels = database.read("scene Ä1")
    part = database.read("scene Ä2", Region(0, 0, 2, 2))
    database.close()
    del database
    gc.collect()
    np.testing.assert_array_equal(pixels, picture(1))
    np.testing.assert_array_equal(part, picture(2)[:2, :2])
    pixels[0] = 0  # ours to write to


def test_basicsrs_own_databases_have_no_info(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    (path / "info.json").unlink()
    database = LmdbPictures(path)
    assert database.info == LmdbInfo("png", 16, 4)
    np.testing.assert_array_equal(database.read("scene Ä3"), picture(3))


def test_a_database_made_by_basicsr(tmp_path):
    import cv2

    from ifan_plugin.host.importing import mend_torchvision

    mend_torchvision()
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number:04}.png"), picture(number)[..., ::-1])
    names = [f"{number:04}.png" for number in range(3)]
    make_lmdb_from_imgs(str(tmp_path), str(tmp_path / "x.lmdb"), names, [n[:-4] for n in names])
    database = LmdbPictures(tmp_path / "x.lmdb")
    database.check()
    assert database.info == LmdbInfo("png", 16, 3)
    np.testing.assert_array_equal(database.read("0002"), picture(2))


def test_opened_again_while_a_traceback_is_kept(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    lines = (path / "meta_info.txt").read_text()
    (path / "meta_info.txt").write_text(lines.replace("Ä3", "Ä4"))
    kept = []
    for _ in range(2):
        with pytest.raises(UserError, match="'scene Ä4'") as caught:
            LmdbPictures(path).check()
        kept.append(caught)
    np.testing.assert_array_equal(LmdbPictures(path).read("scene Ä0"), picture(0))


def test_two_readers_of_one_database(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    one, two = LmdbPictures(path), LmdbPictures(tmp_path / "." / "a.lmdb")
    np.testing.assert_array_equal(one.read("scene Ä0"), two.read("scene Ä0"))
    one.close()
    np.testing.assert_array_equal(two.read("scene Ä1"), picture(1))
    np.testing.assert_array_equal(one.read("scene Ä2"), picture(2))


def _read_there(database, pipe):
    pipe.send([database.read(f"scene Ä{number}") for number in range(4)])
    pipe.close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_other_processes_open_it_anew(tmp_path, start, encoding):
    database = LmdbPictures(write_lmdb(tmp_path / "a.lmdb", pictures(), encoding))
    database.read("scene Ä0")  # open here, which the others must not use
    context = multiprocessing.get_context(start)
    for _ in range(2):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_read_there, args=(database, there))
        process.start()
        there.close()
        assert here.poll(60)
        got = here.recv()
        process.join(30)
        assert process.exitcode == 0
        for number in range(4):
            np.testing.assert_array_equal(got[number], picture(number))
            np.testing.assert_array_equal(database.read(f"scene Ä{number}"), picture(number))


def test_pickled_while_open(tmp_path):
    database = LmdbPictures(write_lmdb(tmp_path / "a.lmdb", pictures()))
    database.read("scene Ä0")
    again = pickle.loads(pickle.dumps(database))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.read("scene Ä1"), picture(1))


def test_safe_keys():
    assert safe_key("a.b.c\nd") == "a_b_c_d"
    assert safe_key("Größe 1") == "Größe 1"


def test_missing_and_half_written(tmp_path):
    assert f"{tmp_path / 'a.lmdb'}: folder not found" in refusal(LmdbPictures, tmp_path / "a.lmdb")
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    meta = (path / "meta_info.txt").read_text()
    (path / "meta_info.txt").unlink()
    message = refusal(LmdbPictures, path)
    assert message.startswith(f"{path}: not a whole LMDB, meta_info.txt is missing")
    (path / "meta_info.txt").write_text(meta)
    (path / "data.mdb").unlink()
    assert "data.mdb is missing" in refusal(LmdbPictures, path)


@pytest.mark.parametrize("encoding", ["png", "raw"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_data(tmp_path, keep, encoding):
    path = write_lmdb(tmp_path / "a.lmdb", pictures(), encoding)
    size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", int(size * keep) // 4096 * 4096)
    database = LmdbPictures(path)
    for call in (database.check, lambda: database.read("scene Ä0")):
        message = refusal(call)
        assert str(path / "data.mdb") in message
        assert "make the database again" in message


def test_garbage_instead_of_data(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    (path / "data.mdb").write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 20000, dtype=np.uint8)))
    assert str(path / "data.mdb") in refusal(LmdbPictures(path).check)


def test_lists_that_dont_fit_the_data(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures(), "raw")
    meta, info = (path / "meta_info.txt").read_text(), (path / "info.json").read_text()

    def with_lists(new_meta, count=4):
        (path / "meta_info.txt").write_text(new_meta)
        (path / "info.json").write_text(info.replace('"count": 4', f'"count": {count}'))
        return path

    database = LmdbPictures(with_lists(meta + "more.png (30,41,3) raw\n", 5))
    assert "'more'" in refusal(database.check)
    assert "'more'" in refusal(database.read, "more")
    assert "no picture 'none'" in refusal(database.read, "none")
    database = LmdbPictures(with_lists("".join(meta.splitlines(keepends=True)[:3]), 3))
    assert "'scene Ä3'" in refusal(database.check)
    database = LmdbPictures(with_lists(meta.replace("(30,41,3)", "(30,40,3)", 1)))
    message = refusal(database.read, "scene Ä0")
    assert "scene Ä0: has 7380 bytes" in message
    assert "40x30" in message
    assert "counts 3 pictures, meta_info.txt has 4" in refusal(LmdbPictures, with_lists(meta, 3))
    assert "lists a key twice" in refusal(LmdbPictures, with_lists(meta + meta, 8))
    assert "lists no pictures" in refusal(LmdbPictures, with_lists("", 0))
    assert "line 1 is not" in refusal(LmdbPictures, with_lists("a.png 30 41\n", 1))
    (path / "info.json").write_text("{")
    (path / "meta_info.txt").write_text(meta)
    assert f"{path / 'info.json'}: can't be understood" in refusal(LmdbPictures, path)
    (path / "info.json").write_text('{"encoding": "jpeg2000"}')
    assert "jpeg2000" in refusal(LmdbPictures, path)
    (path / "info.json").write_text('{"count": 4, "quarter_turns": "a"}')
    assert "must be whole numbers" in refusal(LmdbPictures, path)
    (path / "meta_info.txt").write_bytes(meta.encode("latin-1"))
    assert f"{path / 'meta_info.txt'}: can't be read as a list" in refusal(LmdbPictures, path)


def test_png_of_another_size_or_damaged(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", pictures())
    meta = (path / "meta_info.txt").read_text()
    (path / "meta_info.txt").write_text(meta.replace("(30,41,3)", "(31,41,3)", 1))
    message = refusal(LmdbPictures(path).read, "scene Ä0")
    assert "scene Ä0" in message
    assert "41x30" in message
    assert "41x31" in message


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/tmp/x", "..", "C:x", "..\\x", "\\x", "a\0b"])
def test_a_key_that_leads_out_of_a_folder_is_refused(key, tmp_path):
    """Validation writes its pictures by these names."""
    folder = write_lmdb(tmp_path / "a.lmdb", {"a": np.zeros((8, 8, 3), np.uint8)})
    (folder / "meta_info.txt").write_text(f"{key}.png (8,8,3) 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"meta_info\.txt: line 1: the key '.+' can't be a file's name below a folder$"):
        LmdbPictures(folder)


def test_keys_with_folders_are_read(tmp_path):
    """As of BasicSR's REDS."""
    folder = write_lmdb(
        tmp_path / "a.lmdb", {"000/00000001": np.zeros((8, 8, 3), np.uint8), "a..b": np.zeros((8, 8, 3), np.uint8)}
    )
    assert LmdbPictures(folder).read("000/00000001").shape == (8, 8, 3)
