"""`python -m kattegat.runner`."""

from __future__ import annotations

import sys

from kattegat.runner.main import main

if __name__ == "__main__":
    sys.exit(main())
