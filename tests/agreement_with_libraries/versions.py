"""Which release of a library is meant: the one that constraints.txt names."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
INSTALL = "how to install it: tests/agreement_with_libraries/requirements.txt"


def pins(text: str) -> dict[str, str]:
    """Every NAME==VERSION in a text, names as PyPI normalises them."""
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"([\w.-]+)==([\w.]+)", text)}


CONSTRAINTS = pins((CHECKOUT / "constraints.txt").read_text())


def missing(library: str) -> str:
    """Why the library cannot be asked; nothing where its release is the one meant."""
    meant = CONSTRAINTS[library]
    try:
        found = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return f"{library} {meant} is not installed; {INSTALL}"
    return "" if found == meant else f"{library} {found} is installed, the table is of {meant}; {INSTALL}"
