"""Random streams: independent by purpose, reproducible by seed."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.seeding import PURPOSES, stream


def test_streams_are_reproducible_and_distinct():
    firsts = {(seed, p, k): stream(seed, p, k).random() for seed in (0, 1) for p in PURPOSES for k in (0, 1)}
    assert len(set(firsts.values())) == len(firsts)
    assert all(stream(*key).random() == value for key, value in firsts.items())


def test_the_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stream(0, "trace").random(10)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_unknown_purposes_and_negative_seeds_are_refused():
    with pytest.raises(InputError, match=r"unknown random stream 'weather'.*minibatches"):
        stream(0, "weather")
    with pytest.raises(InputError, match=r"seed or key = -1"):
        stream(-1, "trace")
