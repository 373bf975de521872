"""Independent random streams: one `SeedSequence` per seed, spawned by purpose.

All methods of a comparison draw from the same streams (common random numbers), so their differences
are paired. Nothing in the project touches a global random state.
"""

import numpy as np

from fedauto_core.errors import require_known, require_number

# The position is part of the stream's identity: append, never reorder.
PURPOSES = (
    "partition", "initial model", "minibatches", "server minibatches", "trace", "bootstrap", "pretraining",
    "theory", "local work", "data sharing", "histogram noise", "selection", "adapters",
)  # fmt: skip


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Generator for `purpose` under `seed`; `keys` (round, participant, ...) select independent sub-streams."""
    require_known("random stream", purpose, PURPOSES)
    for number in (seed, *keys):
        require_number("seed or key", number, strict=False, whole=True, remedy="choose a non-negative seed")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *keys)))
