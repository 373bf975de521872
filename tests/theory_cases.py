"""Small problems that the theory tests share."""

import numpy as np

from fedauto_core import theory
from fedauto_core.theory import Constant, Quadratics, Split

N_CLIENTS = 8


def quadratics(seed=0, **options):
    return theory.random_quadratics(seed, theory.skewed_split(seed), **options)


def everything_arrives(split, rule="FedAvg"):
    return theory.aggregate(split, np.ones((1, split.n_clients), dtype=bool), rule)


def tiny_quadratics(noise):
    """Server and one client, two classes, d = 1: F_0 = (w-1)^2/2, F_1 = 3(w+1)^2/2, so n_j/n = 1/2 each."""
    hessian, centre = np.array([[[1.0]], [[3.0]]]), np.array([[1.0], [-1.0]])
    return Quadratics(Split(np.array([[1, 0], [0, 1]])), hessian, centre, noise)


def isotropic(noise=0.0):
    """All Hessians the identity: the bound for E = 1 is an equality at gamma = 1/L."""
    problem = quadratics()
    return Quadratics(problem.split, np.broadcast_to(np.eye(4), problem.hessian.shape), problem.centre, noise)


def constant(symbol, value):
    return Constant(symbol, value, "exact", "given")
