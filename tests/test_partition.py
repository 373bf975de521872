"""Who gets how many samples of which class."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedauto_core import InputError
from fedauto_core.data import FederationSpec
from fedauto_core.data.partition import class_counts

IID = FederationSpec(n_clients=5, samples_per_client=20, server_samples=10, partition="iid")
CLASSES = replace(IID, partition="classes", classes_per_client=2)
DIRICHLET = replace(IID, partition="dirichlet", concentration=0.3)


def counts(spec, exist=(1000,) * 10, seed=0):
    return class_counts(spec, np.array(exist), np.random.default_rng(seed))


@pytest.mark.parametrize("spec", [IID, CLASSES, DIRICHLET], ids=lambda spec: spec.partition)
def test_sizes_are_those_asked_for(spec):
    table = counts(replace(spec, size_ratio=16))
    # 1, 2, 4, 8, 16 of 31 parts of 100 samples: 3.23, 6.45, 12.90, 25.81, 51.61, largest remainders rounded up
    assert table.sum(axis=1).tolist() == [10, 3, 6, 13, 26, 52]
    assert counts(spec).sum(axis=1).tolist() == [10, 20, 20, 20, 20, 20]
    assert (table >= 0).all()


def test_server_is_class_balanced_and_may_lack_classes():
    assert counts(replace(IID, server_samples=30))[0].tolist() == [3] * 10
    lacking = counts(replace(IID, server_samples=20, server_missing_classes=(0, 9)))[0]
    assert lacking[[0, 9]].tolist() == [0, 0]
    assert sorted(lacking[1:9].tolist()) == [2] * 4 + [3] * 4


@given(st.integers(1, 30), st.integers(1, 10), st.floats(1, 4), st.integers(0, 1000))
def test_every_client_holds_exactly_k_classes_and_all_classes_are_covered(n_clients, k, ratio, seed):
    spec = replace(CLASSES, n_clients=n_clients, classes_per_client=k, size_ratio=ratio, samples_per_client=30)
    clients = counts(spec, seed=seed)[1:]
    assert ((clients > 0).sum(axis=1) == k).all()
    holders = (clients > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    assert (holders > 0).all() or n_clients * k < 10
    for row in clients:
        assert np.ptp(row[row > 0]) <= 1


def test_dirichlet_follows_its_law():
    # Share of one class under Dir(a 1_C): mean 1/C, variance (1/C)(1 - 1/C)/(Ca + 1).
    n, a = 4000, 0.5
    spec = replace(DIRICHLET, n_clients=n, samples_per_client=1000, concentration=a)
    shares = counts(spec, exist=(10**8,) * 10)[1:] / 1000
    variance = 0.1 * 0.9 / (10 * a + 1)
    assert np.abs(shares.mean(axis=0) - 0.1).max() < 4 * np.sqrt(variance / n)
    assert shares.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("concentration", [1e-3, 0.1, 1e3])
def test_dirichlet_replaces_exhausted_classes(concentration):
    spec = replace(DIRICHLET, n_clients=9, samples_per_client=110, server_samples=10, concentration=concentration)
    table = counts(spec, exist=(100,) * 10)
    assert table.sum() == 1000 and (table.sum(axis=0) == 100).all()  # everything is used, nothing twice
    assert (table[1:].sum(axis=1) == 110).all()


def test_iid_follows_the_pool():
    table = counts(replace(IID, n_clients=1, samples_per_client=900), exist=(10, 990))
    # 10 server samples leave (5, 985); 900 of the 990 are drawn without replacement: 4.5 expected, at most 5
    assert table[1].sum() == 900 and table[1, 0] <= 5
    draws = [counts(replace(IID, n_clients=1), exist=(205, 805), seed=s)[1, 0] for s in range(400)]
    assert np.mean(draws) == pytest.approx(20 * 0.2, abs=4 * np.sqrt(20 * 0.2 * 0.8 / 400))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(IID, partition="shards"), "unknown partition 'shards'. Allowed: classes, dirichlet, iid"),
        (replace(IID, n_clients=0), "n_clients = 0"),
        (replace(IID, samples_per_client=0), "samples_per_client = 0"),
        (replace(IID, samples_per_client=2.5), "samples_per_client = 2.5"),
        (replace(IID, server_samples=0), "server_samples = 0"),
        (replace(IID, size_ratio=0.5), "size_ratio = 0.5"),
        (replace(IID, server_missing_classes=tuple(range(10))), "some, not all, of the classes 0..9"),
        (replace(IID, server_missing_classes=(10,)), "server_missing_classes = (10,)"),
        (replace(CLASSES, classes_per_client=11), "classes_per_client = 11. Allowed: integers >= 1 and <= 10"),
        (replace(CLASSES, classes_per_client=0), "classes_per_client = 0"),
        (replace(CLASSES, classes_per_client=None), "classes_per_client = None for partition 'classes'"),
        (replace(DIRICHLET, concentration=0.0), "concentration = 0.0"),
        (replace(DIRICHLET, concentration=float("nan")), "concentration = nan"),
        (replace(IID, concentration=0.3), "concentration = 0.3 for partition 'iid'"),
        (replace(IID, size_ratio=1000), "the smallest client would get 0 samples. Allowed: at least 1"),
        (replace(CLASSES, samples_per_client=1), "the smallest client would get 1 samples. Allowed: at least 2"),
        (replace(IID, server_samples=20_000), "the server would need [2000, 2000, "),
        (replace(IID, samples_per_client=2000), "the clients ask for 10000 samples, but only 9990 are left"),
        (replace(IID, samples_per_client=2000), "there are [1000, 1000, 1000, 1000,"),
        (
            replace(CLASSES, n_clients=1, samples_per_client=4000),
            "[999, 999, 999, 999, 999, 999, 999, 999, 999, 999] exist",
        ),
    ],
)
def test_impossible_specs_are_refused(spec, message):
    with pytest.raises(InputError) as error:
        counts(spec)
    assert message in str(error.value)
