#!/usr/bin/env python
"""Make LMDBs of pictures; the same as ``basicsr lmdb create``, for people who look here.

python scripts/prepare_lmdb.py --help
"""

import sys

from ifan_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["lmdb", "create", *sys.argv[1:]]))
