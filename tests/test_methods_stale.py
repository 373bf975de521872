"""Stale updates, postponed broadcast, amplified updates: by hand, identities, against their twins over long runs."""

import numpy as np
import pytest
import torch
from reference_stale import StaleRules
from test_methods_memory import HEARD, ROUNDS, SHAPE, Toy, modes, run, weights

from fedauto_core import InputError
from fedauto_core.methods import make_method


class StaleToy(StaleRules, Toy):
    pass


@modes
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedstale", {}),
        ("fedstale", {"beta": 0.8, "rates": "equal"}),
        ("fedar_like", {}),
        ("fedar_like", {"decay": 1.0}),
    ],
    ids=str,
)
def test_long_runs_equal_the_slow_twin(name, options, with_server):
    twin, w = StaleToy(with_server), torch.zeros(SHAPE[1])
    path, _ = run(make_method(name, **options), with_server)
    for r in range(ROUNDS):
        w = getattr(twin, name)(r, w, **options)
        torch.testing.assert_close(path[r + 1], w, atol=1e-5, rtol=0)


@modes
@pytest.mark.parametrize(("beta", "end"), [(0.0, "fedavg"), (1.0, "fedvarp")])
def test_fedstale_lies_between_fedavg_and_fedvarp(beta, end, with_server):
    expected, _ = run(make_method(end), with_server)
    path, _ = run(make_method("fedstale", beta=beta, rates="equal"), with_server)
    torch.testing.assert_close(path, expected, atol=1e-6, rtol=0)


@modes
def test_fedstale_without_stale_updates_is_fedau(with_server):
    expected, _ = run(make_method("fedau"), with_server)
    torch.testing.assert_close(run(make_method("fedstale", beta=0.0), with_server)[0], expected, atol=1e-6, rtol=0)


@modes
def test_fedar_without_decay_is_mifa_once_all_were_heard(with_server):
    heard = HEARD.copy()
    heard[0] = True
    expected, _ = run(make_method("mifa"), with_server, heard)
    torch.testing.assert_close(run(make_method("fedar_like", decay=0.0), with_server, heard)[0], expected)


@modes
def test_amplification_one_is_fedavg(with_server):
    expected, _ = run(make_method("fedavg"), with_server)
    torch.testing.assert_close(run(make_method("fedavg_amplified", amplification=1.0), with_server)[0], expected)


def test_fedstale_by_hand():
    """N = 2, beta = 1/2. Round 2: y_1 / 4 and client 2's first interval; round 3: client 1 was heard after 1 round."""
    script = [{1: 1}, {2: 4}, {1: 2}, {}]
    assert weights(make_method("fedstale"), script) == [0.5, 0.25 + 2, (1 + 4) / 4 + (2 - 0.5) / 2, 0]
    # Client 2's interval of 2 rounds counts when it is heard next.
    assert weights(make_method("fedstale", beta=0.0), [{1: 1}, {2: 4}, {2: 4}]) == [0.5, 2, 4]
    assert weights(make_method("fedstale", rates="equal"), script) == [1, 0.25 + 4, (1 + 4) / 4 + (2 - 0.5), 0]


def test_fedar_by_hand():
    """Over those heard so far; after s silent rounds 1 / (1 + s), in a round without arrival too."""
    assert weights(make_method("fedar_like", decay=1.0), [{}, {1: 1}, {2: 4}, {}, {1: 2}]) == pytest.approx(
        [0, 1, (1 / 2 + 4) / 2, (1 / 3 + 4 / 2) / 2, (2 + 4 / 3) / 2]
    )
    assert weights(make_method("fedar_like"), [{1: 1}, {}]) == pytest.approx([1, 1 / np.sqrt(2)])
    assert weights(make_method("fedar_like", decay=0.0, server_lr=2.0), [{2: 4}, {1: 1}], counts=(9, 1, 3)) == [8, 6.5]


def test_amplified_updates_by_hand():
    """Every second round what the two have moved the model by counts threefold."""
    method = make_method("fedavg_amplified", period=2)
    assert weights(method, [{1: 1}, {2: 4}, {1: 2}, {}, {}, {}]) == [1, 4 + 2 * 5, 2, 2 * 2, 0, 0]


def test_postponed_broadcast_by_hand():
    """Client 2 has kept w_0 = 0 while client 1 went to 1; their mean, 1/2, is where the second round starts from."""
    assert weights(make_method("fedpbc_like"), [{1: 1}, {1: 1, 2: 4}, {}]) == [1, 0.5 + 2.5 - 1, 0]


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("fedstale", {"beta": 1.5}),
        ("fedstale", {"rates": "known"}),
        ("fedar_like", {"decay": -0.5}),
        ("fedpbc_like", {"judge": "both"}),
        ("fedavg_amplified", {"amplification": 0.5}),
        ("fedavg_amplified", {"period": 0}),
    ],
)
def test_bad_hyper_parameters(name, hyper):
    ((field, value),) = hyper.items()
    with pytest.raises(InputError, match=f"{name}: {field} = {value!r}"):
        make_method(name, **hyper)
