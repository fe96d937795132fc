"""How fast repsim is beside its peers, on the same inputs, with the answers compared: ``python -m bench``."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
# The checkout comes first on the path; where its native module was not built in place, an installed repsim is meant.
if not list((CHECKOUT / "repsim").glob("_core.*.so")):
    sys.path.sort(key=lambda entry: Path(entry).resolve() == CHECKOUT)
