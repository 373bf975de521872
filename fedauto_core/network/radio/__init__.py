"""Radio links: link budgets and path loss of each standard, fading, outage of an upload, and the sharing of a band."""

from .allocation import ALLOCATIONS, allocate, match_blocks
from .fading import RAYLEIGH, Fading
from .links import STANDARDS, Radio, Wired, ergodic_outage, ergodic_snr_db, log_threshold, outage
from .places import Placement, place

__all__ = [
    "ALLOCATIONS", "RAYLEIGH", "STANDARDS", "Fading", "Placement", "Radio", "Wired", "allocate", "ergodic_outage",
    "ergodic_snr_db", "log_threshold", "match_blocks", "outage", "place",
]  # fmt: skip
