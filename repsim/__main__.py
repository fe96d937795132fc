"""``python -m repsim`` is the ``repsim`` command."""

from __future__ import annotations

import sys

from repsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
