"""``python -m ifan_plugin VERB …`` is ``basicsr VERB …``: the form that ``torchrun -m`` takes."""

import sys

from ifan_plugin.cli import main

sys.exit(main())
