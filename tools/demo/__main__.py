"""``python tools/demo``: see the package's docstring, and ``--help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python put the package's directory here; the package is found in the one above
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from demo.command import main

    main()
