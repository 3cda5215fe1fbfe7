"""What a file that should be a checkpoint really is, told by its first bytes, whatever its name says."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from ifan_plugin.common.errors import UserError

_ARCHIVES = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}  # fmt: skip
_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras's weights, say)", b"%PDF": "a PDF document", b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture", b"\x93NUMPY": "a NumPy array",
}  # fmt: skip
_AGAIN = "valid: the checkpoint itself, so download it again"
_START = 1024


def kind_of_file(path: Path) -> str:
    """``safetensors`` or ``torch``, whatever the file's name ends in.

    Raises:
        UserError: an empty file, a web page, a Git LFS pointer, an archive, a TorchScript program, or something else
            that is surely no checkpoint.
    """
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        raise UserError(f"{path}: not a checkpoint, or cut short: the file is empty; {_AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a pointer of Git LFS, not the file itself; fetch that with 'git lfs pull'")
    text = start.decode("utf-8", errors="replace").removeprefix("\ufeff").lstrip()
    if re.match(r"<(!doctype\s+html|html|head|body)", text, re.IGNORECASE):
        title = re.search(r"<title>\s*(.*?)\s*</title>", text, re.IGNORECASE | re.DOTALL)
        said = f" ('{' '.join(title[1].split())[:60]}')" if title else ""
        raise UserError(f"{path}: is a web page (HTML){said}, which came instead of the file; {_AGAIN}")
    for mark, kind in _ARCHIVES.items():
        if start.startswith(mark):
            raise UserError(f"{path}: is a {kind} archive; unpack it, and give the checkpoint in it")
    for mark, kind in _OTHERS.items():
        if start.startswith(mark):
            raise UserError(f"{path}: not a checkpoint: it is {kind}; valid: .pth, .pt, .ckpt, .safetensors of PyTorch")
    if start[257:262] == b"ustar":
        raise UserError(f"{path}: is a tar archive; unpack it, and give the checkpoint in it")
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "safetensors"
    if start.startswith(b"PK\x03\x04"):
        _look_into_zip(path)
    elif all(sign.isprintable() or sign.isspace() for sign in text[:200]):
        begins = " ".join(text.split())[:40]
        raise UserError(f"{path}: not a checkpoint, or cut short: it is text that begins '{begins}'; {_AGAIN}")
    return "torch"


def _look_into_zip(path: Path) -> None:
    """torch.save writes a zip, and so do others; one without its end is left to the reader."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    ends = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in ends:
        raise UserError(
            f"{path}: is a TorchScript program, not weights alone; valid: what torch.save(model.state_dict()) writes"
        )
    if "archive_format" in ends or any(name.endswith("models/model.json") for name in names):
        raise UserError(f"{path}: is an exported program (torch.export), not weights alone; valid: a checkpoint")
    if "data.pkl" not in ends:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        kind = "a NumPy archive" if names and all(name.endswith(".npy") for name in names) else "a zip archive"
        raise UserError(f"{path}: is {kind} ({shown}); unpack it, and give the checkpoint in it")
