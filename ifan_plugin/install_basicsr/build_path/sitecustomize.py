"""Lets BasicSR 1.4.2's setup.py run on Python 3.13; only on the path while its wheel is built.

It runs ``exec`` on its version file and then reads ``locals()['__version__']``. Since Python 3.13 (PEP 667)
``exec`` in a function no longer writes to what ``locals()`` returns, so the name is missing.
"""

import builtins
import sys

BASICSR_VERSION = "1.4.2"


def _locals_with_version() -> dict:
    frame = sys._getframe(1)
    if frame.f_code.co_name == "get_version":
        return {**frame.f_locals, "__version__": BASICSR_VERSION}
    # A dictionary, as the built-in function gives: setuptools passes it to `exec`, which refuses a function's proxy.
    found = frame.f_locals
    return found if isinstance(found, dict) else dict(found)


builtins.locals = _locals_with_version
