"""``python -m ifan_plugin.install_basicsr``."""

import sys

from ifan_plugin.install_basicsr import main

sys.exit(main())
