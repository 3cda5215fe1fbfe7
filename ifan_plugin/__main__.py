"""``python -m ifan_plugin COMMAND …`` is ``basicsr COMMAND …``: the form that ``torchrun -m`` takes."""

import sys

from ifan_plugin.cli import main

if __name__ == "__main__":
    # Python put the working directory first; the command imports installed packages alone, as `basicsr` does.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    sys.exit(main())
