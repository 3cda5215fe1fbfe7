"""The demo as strangers meet it, without a browser: where it listens, whom it answers, which files it gives away."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import socket
import struct
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")

from demo.test_app import Served, picture, small_network, start

from ifan_plugin.photos.read_write import Photo, write_photo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at processes as Linux shows them"),
]

MIB = 2**20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attacked")
    net = small_network()
    torch.save({"hyper_parameters": net.hyper_parameters, "params": net.state_dict()}, folder / "net.pth")
    (folder / "samples").mkdir()
    write_photo(folder / "samples" / "one.png", Photo(pixels=picture(), format="png"))
    found = start(
        folder, "--weights", "net.pth", "--samples", "samples", "--device", "cpu", "--max-megapixels", 1,
        "--max-upload-mb", 1,
    )  # fmt: skip
    yield found
    if found.process.poll() is None:
        found.process.terminate()
    found.process.wait(60)
    assert "/ifan_plugin/" not in (folder / "errors.txt").read_text(), "gradio's own refusals are none of ours"


class Answer(NamedTuple):
    status: int
    body: bytes


def ask(
    served: Served, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request, written as it is: no client that tidies a path up."""
    where = urlsplit(served.address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=120)
    given = {"Host": where.netloc} | (headers or {})
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body or b"")))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = Answer(answer.status, answer.read())
    connection.close()
    return found


def upload(served: Served, name: str, data: bytes, **headers: str) -> Answer:
    """As the page uploads a file."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    return ask(served, "/gradio_api/upload", "POST", body, kind | headers)


def load(served: Served, path: str, name: str) -> str:
    """As the page says that its upload is done; what the page then shows."""
    config = json.loads(ask(served, "/config").body)
    (number,) = [
        each["id"]
        for each in config["dependencies"]
        if any(event == "upload" for _, event in each["targets"]) and each["inputs"]
    ]
    session = uuid.uuid4().hex
    file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    asked = {"fn_index": number, "data": [file], "session_hash": session, "event_data": None}
    joined = ask(
        served, "/gradio_api/queue/join", "POST", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    if joined.status != 200:
        return f"{joined.status} {joined.body.decode()}"
    events = ask(served, f"/gradio_api/queue/data?session_hash={session}").body.decode()
    return next(line for line in events.splitlines() if "process_completed" in line)


def png(width: int = 60, height: int = 40) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 100, np.uint8)).save(data, "PNG")
    return data.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, a few kilobytes that become megabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(3 * width + 1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_it_listens_on_this_machine_alone(served):
    links = (os.readlink(f"/proc/{served.process.pid}/fd/{n}") for n in os.listdir(f"/proc/{served.process.pid}/fd"))
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1])
    port = f"{urlsplit(served.address).port:04X}"
    assert listening == [f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}:{port}"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::1]:80", "0.0.0.0", ""],
)
def test_other_names_of_this_machine_are_refused(served, host):
    """A site whose name is made to lead to 127.0.0.1 would else be the page's own."""
    for path, method in (("/", "GET"), ("/config", "GET"), ("/gradio_api/queue/join", "POST")):
        answer = ask(served, path, method, b"{}", {"Host": host})
        assert answer.status == 400, (path, answer)
        assert b"net.pth" not in answer.body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_what_other_sites_send_is_refused(served, origin):
    assert upload(served, "a.png", png(), Origin=origin).status == 403
    assert ask(served, "/gradio_api/queue/join", "POST", b"{}", {"Origin": origin}).status == 403


def test_files_are_reached_by_their_own_links_alone(served):
    sent = upload(served, "mine.png", png(), Origin=served.address.rstrip("/"))
    assert sent.status == 200
    (path,) = json.loads(sent.body)
    assert ask(served, f"/gradio_api/file={quote(path)}").body == png()
    (private,) = served.temporary.glob("basicsr_demo_*")
    weights = served.folder / "net.pth"
    others = [
        "/etc/passwd", weights, served.folder / "samples" / "one.png", Path(path).parent, private, "net.pth",
        f"{path}/../../../../net.pth", f"{private}/../../net.pth", f"{path}/..", "/proc/self/environ", "C:\\x", "\\\\x\\y",
        "file:///etc/passwd", "http://127.0.0.1:1/x",
    ]  # fmt: skip
    secrets = (b"root:", weights.read_bytes()[:40], b"PATH=")
    for other in others:
        for form in (str(other), quote(str(other)), quote(str(other), safe="").replace(".", "%2e")):
            for route in (
                "/gradio_api/file=",
                "/gradio_api/file/",
                "/file=",
                "/static/",
                "/assets/",
                "/gradio_api/stream/",
            ):
                if re.search(r"[\s\x00-\x20]", form):
                    continue
                answer = ask(served, route + form)
                assert answer.status in (400, 403, 404, 405, 422, 500, 307), (route, form, answer.status)
                assert answer.status != 500, (route, form)
                assert not any(secret in answer.body for secret in secrets), (route, form)
    # Nor may the page be told to read a file that nobody uploaded.
    for other in ("/etc/passwd", str(weights)):
        said = load(served, other, "mine.png")
        assert "restored" not in said
        assert not any(secret.decode("latin-1") in said for secret in secrets[::2])


def test_many_bad_uploads_at_once_leave_it_serving(served):
    def resident() -> int:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{served.process.pid}/status").read_text())
        return int(found[1]) * 1024

    bad = {
        "bomb.png": (bomb(8000, 8000), "says it has 8000x8000 pixels"),
        "text.png": (b"no picture at all", "not a picture"),
        "cut.png": (png()[:60], "damaged or cut short"),
        "empty.jpg": (b"", "empty"),
        "page.html": (b"<script>alert(1)</script>", "not a kind of picture"),
    }
    assert load(served, *uploaded(served, "good.png", png())), "what is built at the first use isn't the attack's"
    before = resident()
    jobs = [name for name in bad for _ in range(6)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        sent = list(pool.map(lambda name: uploaded(served, name, bad[name][0]), jobs))
    for path, name in sent[::6]:
        said = load(served, path, name)
        assert bad[name][1] in said or "Invalid file type" in said, (name, said[:500])
        assert str(served.folder) not in said.replace(path, "")
    heavy = upload(served, "heavy.png", png() + bytes(2 * MIB))
    assert heavy.status == 413, heavy
    assert resident() - before < 150 * MIB, "a bomb is refused before it is unpacked"
    said = load(served, *uploaded(served, "good.png", png()))
    assert "good.png: 60 x 40 pixels, 8 bit" in said
    assert served.process.poll() is None


def uploaded(served: Served, name: str, data: bytes) -> tuple[str, str]:
    answer = upload(served, name, data)
    assert answer.status == 200, answer
    return json.loads(answer.body)[0], name
