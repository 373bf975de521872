"""What a page was computed on."""

import os
import platform
import re
from pathlib import Path

import psutil

from fedauto_core.store.cores import cpus


def machine() -> dict[str, str | int]:
    """Processor, its cores, the CPUs that may be used, the memory in GiB, and the system."""
    try:
        known = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:  # not Linux
        known = None
    return {
        "processor": known[1].strip() if known else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "threads": cpus(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }
