"""Fails where ptxas kept registers in memory: `python csrc/cuda/no_spills.py LOG`, LOG what `nvcc -Xptxas=-v` said."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
_FUNCTION = re.compile(r"Function properties for (\S+)")
# Matrix instructions that wait for each other, or a share of the registers that is not given.
_IGNORED = re.compile(r"\(C75\d\d\).*")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def spills(log: str) -> tuple[int, list[str]]:
    """How many kernels the log names, and a line for every function that spills or that ptxas says it slowed down."""
    kernels, found, name, architecture = 0, [], "?", "?"
    for line in log.splitlines():
        if kernel := _KERNEL.search(line):
            kernels += 1
            name, architecture = kernel.groups()
        elif function := _FUNCTION.search(line):
            name = function[1]
        elif ignored := _IGNORED.search(line):
            found.append(ignored[0])
        elif (sizes := _SPILLS.search(line)) and (int(sizes[2]) or int(sizes[3])):
            found.append(f"{architecture} {name}: {sizes[2]} bytes stored, {sizes[3]} loaded")
    return kernels, found


if __name__ == "__main__":
    count, bad = spills(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(f"{count} kernels, {len(bad)} that spill or wait", *bad, sep="\n")
    sys.exit(bool(bad) or count == 0)
