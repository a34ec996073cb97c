"""``python -m fwdgrad``, which puts the current folder first on the path: it goes last."""

import os
import sys

if sys.path[0] in ("", os.getcwd()):
    sys.path.append(sys.path.pop(0))

from fwdgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
