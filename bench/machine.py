"""What a measurement depends on besides the code: hardware, load, memory, versions, commit."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from repsim.records import environment, now

VECTOR_UNITS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
BUSY_LOAD = 0.25  # running processes per CPU from which times are in doubt
BUSY = "the machine is busy, the times are in doubt"


def threads() -> int:
    """The CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_all_threads() -> None:
    """Every library in a process started from here uses the same number of threads."""
    for library in ("OMP", "OPENBLAS", "MKL", "REPSIM"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads())


def facts() -> dict[str, str]:
    """Name and value of everything that belongs beside a measurement; to be called before it."""
    load, here = os.getloadavg()[0], environment()
    commit = here["commit"] or "unknown (repsim was not imported from a checkout)"
    return {
        "processor": f"{here['cpu']} ({platform.machine()}; {', '.join(_vector_units()) or 'vector units unknown'})",
        "CPUs": f"{here['cpus']}, of which every library uses {threads()}",
        "load before the run": f"{load:.2f}" + (f": {BUSY}" if load > BUSY_LOAD * threads() else ""),
        "platform": f"{here['platform']}, Python {here['python']}",
        "commit": commit + (" with uncommitted changes" if here["dirty"] else ""),
        "date": now(),
    }


def version(distribution: str | None) -> str:
    """The installed version; empty without one."""
    if distribution is None:
        return ""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return ""


def reset_peak_memory() -> None:
    """Let VmHWM start again from what is resident now; where the kernel forbids it, earlier peaks count as resident."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """VmHWM of this process, in bytes."""
    return _kibibytes("/proc/self/status", "VmHWM")


def available_memory() -> int:
    """Bytes that new work may take without swapping."""
    return _kibibytes("/proc/meminfo", "MemAvailable")


def free_disk(folder: Path) -> int:
    """Bytes that new files in the folder may take."""
    return shutil.disk_usage(folder).free


def _kibibytes(file: str, name: str) -> int:
    return int(_field(file, name).split()[0]) * 1024


def _field(file: str, *names: str) -> str:
    for line in Path(file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    raise OSError(f"{file} has no {' or '.join(names)}")


def _vector_units() -> list[str]:
    with suppress(OSError):
        flags = _field("/proc/cpuinfo", "flags", "Features").split()
        return [unit for unit in VECTOR_UNITS if unit in flags]
    return []
