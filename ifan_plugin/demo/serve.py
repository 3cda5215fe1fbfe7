"""Serving the page: on this machine, to its own pages, in words of ours where that fails."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ifan_plugin.common.errors import UserError
from ifan_plugin.demo.pictures import Limits
from ifan_plugin.demo.style import CSS, theme

LOOPBACK = ("127.0.0.1", "localhost")
SESSIONS = 8  # pictures kept at once; each takes some tens of megabytes
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def launch(page: gr.Blocks, limits: Limits, host: str, port: int | None) -> str:
    """Start serving in threads of their own. Returns the page's address.

    Raises:
        UserError: the port is taken, or the address isn't this machine's.
    """
    where = f"--host {host} --port {port or 'any'}: can't serve there"
    if port is not None:
        _require_free(host, port, where)
    _reach_past_proxies(host)
    # Other people's sites must not reach a page on this machine by a name of theirs that leads here.
    hosts = LOOPBACK if host in LOOPBACK else None
    options = {
        "server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True, "share": False,
        "inbrowser": False, "show_error": False, "max_file_size": limits.bytes, "ssr_mode": False, "mcp_server": False,
        "enable_monitoring": False, "run_history": False, "footer_links": [], "show_api": False, "pwa": False,
        "state_session_capacity": SESSIONS, "app_kwargs": {"middleware": [Middleware(OwnPagesOnly, hosts=hosts)]},
        "theme": theme(), "css": CSS,
    }  # fmt: skip
    known = inspect.signature(gr.Blocks.launch).parameters
    try:
        _, address, _ = page.launch(**{name: value for name, value in options.items() if name in known})
    except OSError as error:
        reason = " ".join(str(error).split())
        if port is None and "empty port" in reason:
            reason = "no port from 7860 on is free; give --port N"
        raise UserError(f"{where}: {reason}") from error
    except ValueError as error:  # gradio asks the page whether it is there, and a proxy answers
        named = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
        if not named:
            raise
        raise UserError(
            f"{where}: the page can't be reached through the proxy of {', '.join(named)}; set NO_PROXY={host}"
        ) from error
    return address


def _require_free(host: str, port: int, where: str) -> None:
    """Say beforehand what gradio would say in words of its own."""
    reasons = {
        errno.EADDRINUSE: "the port is taken by another program; choose another, or leave --port out",
        errno.EACCES: "this port is kept for the system; choose one from 1024 on, or leave --port out",
        errno.EADDRNOTAVAIL: "the address isn't this machine's; valid: 127.0.0.1, 0.0.0.0 or an address it has",
    }
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except socket.gaierror as error:
            raise UserError(f"{where}: no machine is called {host}") from error
        except OSError as error:
            raise UserError(f"{where}: {reasons.get(error.errno or 0, error.strerror or error)}") from error


def _reach_past_proxies(host: str) -> None:
    """gradio asks its own page whether it is there: a proxy for other machines has no part in that."""
    for name in ("NO_PROXY", "no_proxy"):
        present = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join(dict.fromkeys([*present, *LOOPBACK, host]))


def close(page: gr.Blocks, folder: Path) -> None:
    """Stop serving and delete the files."""
    page.close(verbose=False)
    shutil.rmtree(folder, ignore_errors=True)


class OwnPagesOnly:
    """Tells the browser to fetch nothing from other sites, whatever gradio's pages ask for, and takes nothing that the
    pages of other sites send, nor anything that comes by another site's name.

    Args:
        app: what is served.
        hosts: the names that it answers to; None: all.
    """

    POLICY = (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
    )

    def __init__(self, app: Any, hosts: Sequence[str] | None = None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            refused = self._refused(scope)
            if refused is not None:
                await _answer(scope["type"], send, *refused)
                return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", self.POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = message | {"headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)

    def _refused(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason where a request isn't answered."""
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if self.hosts is not None and named.rpartition(":")[0 if ":" in named else 2].lower() not in self.hosts:
            return 400, (
                f"This page answers to {' and '.join(self.hosts)} alone, and was asked for as '{named}'. Behind a "
                "proxy: let it pass on one of these as Host, or start basicsr demo with --host."
            )
        if scope.get("method", "GET") not in ("GET", "HEAD") and not is_own(scope["headers"]):
            return 403, (
                "This was sent by the page of another site. Behind a proxy: let it pass on the Host that the browser "
                "asked for."
            )
        return None


async def _answer(kind: str, send: Any, status: int, text: str) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def is_own(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request comes from this page, or from a program that is no browser and names no page."""
    named = dict(headers)
    origin = named.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == named.get(b"host")
