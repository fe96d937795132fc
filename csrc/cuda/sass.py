"""Fails where a fused kernel is not what it should be in machine code: `python csrc/cuda/sass.py LIBRARY`.

The kernels multiply by HGMMA, load by bulk tensor copies, share their registers out anew, and touch no local memory.
Needs cuobjdump and nvdisasm on the path, from the CUDA toolkit or from PyPI's nvidia-cuda-cuobjdump and -nvdisasm.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

KERNELS = ("sums_kernel", "select_kernel")
NEEDED = ("HGMMA", "UTMALDG", "USETMAXREG")
FORBIDDEN = ("HMMA", "LDL", "STL")
_FUNCTION = re.compile(r"Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)")


def instructions(listing: str) -> dict[str, Counter[str]]:
    """How often each function of a listing of cuobjdump -sass uses each instruction."""
    counts: dict[str, Counter[str]] = {}
    own: Counter[str] = Counter()
    for line in listing.splitlines():
        if function := _FUNCTION.search(line):
            own = counts.setdefault(function[1], Counter())
        elif instruction := _INSTRUCTION.match(line):
            own[instruction[1]] += 1
    return counts


def faults(counts: dict[str, Counter[str]]) -> list[str]:
    """A line for everything that a fused kernel lacks or should not have."""
    found = []
    for kernel in KERNELS:
        own = {name: count for name, count in counts.items() if kernel in name}
        if not own:
            found.append(f"{kernel}: not there")
        for name, count in own.items():
            found += [f"{name}: no {one}" for one in NEEDED if not count[one]]
            found += [f"{name}: {count[one]} {one}" for one in FORBIDDEN if count[one]]
    return found


if __name__ == "__main__":
    done = subprocess.run(["cuobjdump", "-sass", sys.argv[1]], capture_output=True, text=True, check=True)
    bad = faults(instructions(done.stdout))
    print("\n".join(bad) or "the fused kernels use the tensor cores, the copy engine and no local memory")
    sys.exit(bool(bad))
