"""How many processes this machine has room for."""

import os


def cpus() -> int:
    """CPUs that this process may use; all of the machine where the system cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
