"""Rules that remember: by hand, against their twins over long runs, and what a lost upload leaves alone.

Participant j pulls the model towards u_j: Delta_j = (u_j - w) / 4.
"""

import numpy as np
import pytest
import torch
from reference import weights_by_slsqp
from reference_memory import MemoryRules

from fedauto_core import InputError
from fedauto_core.methods import METHODS, Arrivals, Context, make_method

NAMES = ("fedau", "mifa", "fedvarp", "f3ast", "fl_fdms")
TABLES = ("mifa", "fedvarp", "fedauto_memory")
COUNTS, SHAPE = np.array([20, 10, 30, 40, 15, 25]), (6, 3)  # (N + 1, P)
U = torch.from_numpy(np.random.default_rng(1).normal(size=SHAPE)).float()
ROUNDS = 60
HEARD = np.random.default_rng(2).random((ROUNDS, 5)) < [0.1, 0.3, 0.5, 0.7, 0.9]
modes = pytest.mark.parametrize("with_server", [True, False], ids=["server", "client-only"])


class PublicData:
    """Four public samples of every second class; trained on some, a model moves towards the mean of their u."""

    counts_per_class = np.array([4, 0] * 3)

    def train(self, w, steps, classes):
        return (U[classes].mean(dim=0) - w) / 4


def start(method, counts=COUNTS, with_server=False):
    n = len(counts)
    w0 = torch.zeros(SHAPE[1])
    return method.init(Context(np.array(counts), np.eye(n), np.full(n, 1 / n), 1, 0.1, with_server, w0)), w0


def step(method, state, w, r, ids, deltas=None, u=U):
    ids = np.array(ids, dtype=np.int64)
    deltas = (u[ids] - w) / 4 if deltas is None else torch.tensor(deltas).float()[:, None].expand(-1, SHAPE[1])
    arrivals = Arrivals(r, ids, deltas, np.ones(len(ids), dtype=int), 0.1)
    return method.aggregate(state, w, arrivals, PublicData())


def participants(heard, with_server):
    clients = 1 + np.flatnonzero(heard)
    return np.concatenate([[0], clients]) if with_server else clients


def run(method, with_server, heard=HEARD, counts=COUNTS, u=U):
    """w after every round, [T + 1, P], and the last state."""
    state, w = start(method, counts, with_server)
    path = [w]
    for r, row in enumerate(heard):
        w, state = step(method, state, w, r, participants(row, with_server), u=u)
        path.append(w)
    return torch.stack(path), state


def weights(method, script, counts=(1, 1, 1)):
    """Moves of w for a script of {id: delta} per round, N = 2 clients, without the server."""
    state, w = start(method, counts)
    moves = []
    for r, sent in enumerate(script):
        after, state = step(method, state, w, r, list(sent), [float(delta) for delta in sent.values()])
        moves.append(float((after - w)[0]))
        w = after
    return moves


class Toy(MemoryRules):
    lr = 0.1

    def __init__(self, with_server):
        self.with_server = with_server

    def train(self, r, j, w):
        return w + (U[j] - w) / 4

    def arrived(self, r):
        return participants(HEARD[r], self.with_server).tolist()

    def potential(self):
        counts = {j: float(COUNTS[j]) for j in range(0 if self.with_server else 1, 6)}
        return {j: count / sum(counts.values()) for j, count in counts.items()}


@modes
@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("fedau", {"cutoff": 3}), ("mifa", {"wait": True})], ids=str
)
def test_long_runs_equal_the_slow_twin(name, options, with_server):
    twin, w = Toy(with_server), torch.zeros(3)
    path, _ = run(make_method(name, **options), with_server)
    for r in range(ROUNDS):
        w = getattr(twin, name)(r, w, **options)
        torch.testing.assert_close(path[r + 1], w, atol=1e-5, rtol=0)


@modes
@pytest.mark.parametrize("name", NAMES)
def test_without_failures_it_is_fedavg(name, with_server):
    everyone = np.ones((ROUNDS, 5), dtype=bool)
    expected, _ = run(make_method("fedavg"), with_server, everyone)
    torch.testing.assert_close(run(make_method(name), with_server, everyone)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_server_its_data_weigh_nothing(name):
    other = np.concatenate([[10**6], COUNTS[1:]])
    assert torch.equal(run(make_method(name), False)[0], run(make_method(name), False, counts=other)[0])


@modes
@pytest.mark.parametrize("name", [*NAMES, "fedauto_memory"])
def test_cost_is_what_the_state_holds(name, with_server):
    """Also where the server is no participant: its row, participant 0, is there."""
    _, state = run(make_method(name), with_server)
    held = sum(np.prod(value.shape) for value in state.memory.values())
    cost = METHODS[name].cost
    assert held == eval(cost.server, {"N": SHAPE[0] - 1, "P": SHAPE[1]}) and cost.clients == "0"


@modes
@pytest.mark.parametrize("name", TABLES)
def test_a_lost_upload_changes_no_stored_row(name, with_server):
    method = make_method(name)
    state, w = start(method, with_server=with_server)
    for r, heard in enumerate(HEARD[:20]):
        ids = participants(heard, with_server)
        before, sent = state.memory, (U[ids] - w) / 4
        w, state = step(method, state, w, r, ids)
        lost = np.setdiff1d(np.arange(6), ids)
        assert torch.equal(state.memory["updates"][lost], before["updates"][lost])
        assert np.array_equal(state.memory["last"][lost], before["last"][lost])
        assert torch.equal(state.memory["updates"][ids], sent) or not len(ids)


@modes
@pytest.mark.parametrize("p", [0.1, 0.6])
@pytest.mark.parametrize("cutoff", [1, 10, 10**6])
def test_fedau_estimates_the_truncated_mean_interval(p, cutoff, with_server):
    """E[min(interval, K)] = (1 - (1 - p)^K) / p for Bernoulli arrivals."""
    n, rng = 200, np.random.default_rng(4)
    method = make_method("fedau", cutoff=cutoff)
    state, w = start(method, np.ones(n + 1), with_server)
    for r in range(1000):
        ids = participants(rng.random(n) < p, with_server)
        w, state = step(method, state, w, r, ids, [0.0] * len(ids))
    omega = state.memory["omega"][1:]
    error = omega.std() / np.sqrt(n)
    assert abs(omega.mean() - (1 - (1 - p) ** cutoff) / p) <= 4 * error + 1e-12
    assert state.memory["omega"][0] == 1 or not with_server


def test_fedau_by_hand():
    """N = 2: 1/2 omega. Client 1 closes 3, 1, 1; the weight of a round leaves that round's own interval out."""
    script = [{}, {}, {1: 1}, {1: 1}, {1: 1}]
    assert weights(make_method("fedau"), script) == [0, 0, 0.5, 1.5, 1.0]
    # Cut-off 2: the first two rounds close an interval of 2 although nobody was heard; then 1 and 1.
    assert weights(make_method("fedau", cutoff=2), script) == pytest.approx([0, 0, 1.0, 0.75, 4 / 6])
    assert weights(make_method("fedau", server_lr=2.0), script[:3]) == [0, 0, 1.0]


def test_mifa_by_hand():
    """The latest updates, once more in a silent round; after an outage of everybody too."""
    assert weights(make_method("mifa"), [{}, {1: 1}, {2: 4}, {}, {1: 2}]) == [0, 0.5, 2.5, 2.5, 3]
    assert weights(make_method("mifa", server_lr=3.0), [{1: 1}]) == [1.5]
    assert weights(make_method("mifa"), [{1: 1}], counts=(9, 1, 3)) == [0.25]


@modes
def test_mifa_waits_for_everybody_and_keeps_what_was_sent(with_server):
    method = make_method("mifa", wait=True)
    path, _ = run(method, with_server)
    first = max(HEARD.argmax(axis=0))  # the round in which the last client is heard for the first time
    assert first > 3 and torch.equal(path[first], path[0])
    p = COUNTS / COUNTS.sum() if with_server else np.concatenate([[0], COUNTS[1:] / COUNTS[1:].sum()])
    torch.testing.assert_close(path[first + 1], torch.from_numpy(p).float() @ U / 4)  # all were trained from w_0 = 0
    assert not torch.equal(path[first + 2], path[first + 1])


def test_fedvarp_by_hand():
    """v = mean y + (Delta - y_k): 0 + 1; (1 + 0) / 2 + 4; (1 + 4) / 2 + (0 - 1); nothing in a silent round."""
    assert weights(make_method("fedvarp"), [{1: 1}, {2: 4}, {1: 0}, {}]) == [1, 4.5, 1.5, 0]
    assert weights(make_method("fedvarp", server_lr=2.0), [{1: 1}, {2: 4}]) == [2, 9]
    # p = 1/4, 3/4: 0 + 1; 1/4 * 1 + 4; both: the plain weighted mean.
    assert weights(make_method("fedvarp"), [{1: 1}, {2: 4}, {1: 2, 2: 2}], counts=(9, 1, 3)) == [1, 4.25, 2]


def aged(decay, lam, r, last, ids):
    """FedAuto's weights by a general solver, by id, over all not forgotten and participant m (-1); the classes of m."""
    missing = [c for c in (0, 2, 4) if c not in [j for j in ids if j > 0]]
    known = {j: COUNTS[j] * decay ** (r - heard) for j, heard in last.items() if COUNTS[j] * decay ** (r - heard) >= 1}
    alpha, counts = [np.eye(6)[j] for j in known], list(known.values())
    if missing:
        alpha, counts = [*alpha, np.eye(6)[missing].mean(axis=0)], [*counts, 4.0 * len(missing)]
    beta = weights_by_slsqp(np.array(alpha), np.array(counts), np.full(6, 1 / 6), lam)
    return dict(zip([*known, *[-1] * bool(missing)], beta, strict=True)), missing


@modes
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.9, 1.0])
def test_fedauto_with_a_memory_equals_a_slow_twin(decay, with_server):
    """Stored are what was sent and the round; weighed is by a general solver. In silent rounds, too."""
    method = make_method("fedauto_memory", decay=decay)
    state, w = start(method, with_server=with_server)
    sent, last = {}, {}
    for r, heard in enumerate(HEARD[:25] & (np.arange(25) % 6 != 3)[:, None]):
        ids = participants(heard, with_server)
        sent.update({j: (U[j] - w) / 4 for j in ids})
        last.update(dict.fromkeys(ids.tolist(), r))
        beta, missing = aged(decay, method.lam, r, last, ids)
        m = {-1: PublicData().train(w, 1, missing)} if missing else {}
        expected = w + sum(float(beta[j]) * (sent | m)[j] for j in beta)
        w, state = step(method, state, w, r, ids)
        torch.testing.assert_close(w, expected, atol=2e-4, rtol=0)
        stale = sum(b for j, b in beta.items() if j >= 0 and last[j] < r)
        age = sum(b * (r - last[j]) for j, b in beta.items() if j >= 0)
        assert state.log["stale"] == pytest.approx(stale, abs=1e-3) and state.log["age"] == pytest.approx(age, abs=1e-2)
        assert len(state.weights) == len(ids) + len(m) and sum(state.weights) == pytest.approx(1 - stale, abs=1e-3)


@modes
def test_without_a_memory_it_is_fedauto_and_without_ageing_it_is_mifa(with_server):
    """To the bit; over those heard so far, in MIFA's case, for a large lambda."""
    bare = make_method("fedauto_memory", decay=0.0)
    assert torch.equal(run(bare, with_server)[0], run(make_method("fedauto"), with_server)[0])
    heard = HEARD.copy()
    heard[0] = True  # so that MIFA knows everybody from the start
    ageless = make_method("fedauto_memory", decay=1.0, lam=1e9, compensation="none")
    expected = run(make_method("mifa"), with_server, heard)[0]
    torch.testing.assert_close(run(ageless, with_server, heard)[0], expected, atol=1e-5, rtol=0)


def test_a_memory_by_hand():
    """N = 2 of 64 and 16 samples, without the server, lambda large: 64 : 16, then 64 / 2 : 16, then 64 : 16 / 2, and
    after six silent rounds of both 64 / 2^6 = 1 sample of client 1 is left alone; nothing after one more."""
    method = make_method("fedauto_memory", decay=0.5, lam=1e9, compensation="none")
    script = [{1: 1, 2: 6}, {2: 6}, {1: 1}, *[{}] * 7]
    moves = weights(method, script, counts=(1, 64, 16))
    expected = [2.0, (32 + 96) / 48, (64 + 48) / 72, (32 + 24) / 36, (16 + 12) / 18, (8 + 6) / 9, 1.0, 1.0, 1.0, 0.0]
    assert moves == pytest.approx(expected, abs=1e-5)


def test_f3ast_by_hand():
    """rate 1/2: r_1 = 1, 1/2, 3/4; r_2 = 1/2, 3/4, 3/8 after the three rounds; a silent round halves both."""
    moves = weights(make_method("f3ast", rate=0.5), [{1: 1}, {2: 1}, {1: 1}, {}, {2: 1}])
    # r_2 in the last round: (3/16 + 1) / 2.
    assert moves == pytest.approx([0.5 / 1, 0.5 / 0.75, 0.5 / 0.75, 0, 0.5 / (19 / 32)])


@modes
def test_fl_fdms_substitutes_the_twin(with_server):
    """Clients 1 and 2 hold the same: once they were heard together, losing one of them loses nothing."""
    u = U.clone()
    u[2] = u[1]
    heard = np.ones((6, 5), dtype=bool)
    expected, _ = run(make_method("fedavg"), with_server, heard, u=u)
    heard[1::2, 1] = heard[2::2, 0] = False
    path, state = run(make_method("fl_fdms"), with_server, heard, u=u)
    torch.testing.assert_close(path, expected, atol=1e-6, rtol=0)
    assert state.log["substituted"] == 1 and state.memory["similarity"][1, 2] == pytest.approx(1)


@modes
def test_fl_fdms_without_known_friends_is_fedavg_over_the_arrived(with_server):
    """Clients 1, 2 and then 3, 4, 5: nobody of the second round was heard together with one of the first."""
    heard = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    expected, _ = run(make_method("fedavg"), with_server, heard)
    torch.testing.assert_close(run(make_method("fl_fdms"), with_server, heard)[0], expected)
    state = run(make_method("fl_fdms"), with_server, heard)[1]  # the server, always heard, is nobody's friend
    assert (state.log["substituted"], state.log["left_out"]) == (0, 2)


def test_fl_fdms_by_hand():
    """Client 1 is (1, 0), client 2 (0, 1), client 3 (1, 1): similarities 1/2, (1 + 1 / sqrt 2) / 2; zero counts 1/2."""
    method = make_method("fl_fdms")
    state, w = start(method, [5, 1, 1, 2])
    deltas = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    _, state = method.aggregate(state, w, Arrivals(0, np.array([1, 2, 3]), deltas, np.ones(3), 0.1), None)
    near = (1 + np.sqrt(0.5)) / 2
    expected = [[1, 0.5, near], [0.5, 1, near], [near, near, 1]]
    np.testing.assert_allclose(state.memory["similarity"][1:, 1:], expected, atol=1e-6)
    w, state = method.aggregate(state, w, Arrivals(1, np.array([2, 3]), deltas[[0, 2]], np.ones(2), 0.1), None)
    # Client 1's friend among the arrived is 3: 1/4 (1, 0) + (1/4 + 1/2) (1, 1).
    torch.testing.assert_close(w, torch.tensor([1.0, 0.75, 0]))
    changed = state.memory["similarity"]
    assert changed[1, 3] == pytest.approx(near) and changed[2, 3] == pytest.approx(near)  # 2 and 3 are as before
    _, state = method.aggregate(state, w, Arrivals(2, np.array([1, 2]), 0 * deltas[:2], np.ones(2), 0.1), None)
    assert state.memory["similarity"][1, 2] == pytest.approx(0.5) and state.memory["met"][1, 2] == 2


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("fedau", {"cutoff": 0}, "fedau: cutoff = 0"),
        ("fedau", {"server_lr": 0.0}, "fedau: server_lr = 0.0"),
        ("mifa", {"server_lr": -1.0}, "mifa: server_lr = -1.0"),
        ("fedvarp", {"server_lr": np.nan}, "fedvarp: server_lr = nan"),
        ("f3ast", {"rate": 0.0}, "f3ast: rate = 0.0"),
        ("f3ast", {"rate": 1.0}, "f3ast: rate = 1.0"),
        ("fl_fdms", {"server_lr": np.inf}, "fl_fdms: server_lr = inf"),
        ("fedauto_memory", {"decay": 1.1}, r"fedauto_memory: decay = 1.1.*\[0, 1\]"),
        ("fedauto_memory", {"decay": -0.1}, "fedauto_memory: decay = -0.1"),
        ("fedauto_memory", {"lam": 0.0}, "fedauto_memory: lam = 0.0"),
    ],
)
def test_bad_hyper_parameters(name, hyper, message):
    with pytest.raises(InputError, match=message):
        make_method(name, **hyper)
