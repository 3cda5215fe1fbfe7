"""``python -m ifan_plugin.mm COMMAND …``."""

import sys

from ifan_plugin.mm.cli import main

if __name__ == "__main__":
    sys.exit(main())
