"""Where the clients are: standard, place in the cell, line of sight and shadowing of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedauto_core.errors import require, require_known

from .fading import RAYLEIGH, Fading
from .links import STANDARDS, Wired


@dataclass(frozen=True, eq=False)
class Placement:
    """N clients, arrays of shape [N].

    standard: names; distance_m and angle (radians) from the access point; sight: whether there is a line of sight;
    shadow: shadowing in standard deviations; kappa: `Radio.kappa` without shadowing, 1/Hz; shadowing_db: standard
    deviation; decorrelation_m: see `Propagation`; fading. A wire has kappa 0, no shadowing and no fading.
    """

    standard: tuple[str, ...]
    distance_m: np.ndarray
    angle: np.ndarray
    sight: np.ndarray
    shadow: np.ndarray
    kappa: np.ndarray
    shadowing_db: np.ndarray
    decorrelation_m: np.ndarray
    fading: tuple[Fading, ...]

    def loss(self, shadow: np.ndarray) -> np.ndarray:
        """Natural logarithm of the factor by which `shadow` standard deviations [..., N] worsen kappa."""
        return shadow * self.shadowing_db * np.log(10) / 10

    def frame(self) -> pd.DataFrame:
        """One row per client 1..N: standard, distance_m, x_m, y_m, sight, shadowing_db (of this client)."""
        return pd.DataFrame(
            {
                "standard": self.standard,
                "distance_m": self.distance_m,
                "x_m": self.distance_m * np.cos(self.angle),
                "y_m": self.distance_m * np.sin(self.angle),
                "sight": self.sight,
                "shadowing_db": self.shadow * self.shadowing_db,
            },
            index=pd.RangeIndex(1, len(self.standard) + 1, name="client"),
        )


def place(rng: np.random.Generator, n_clients: int, standards: Sequence[str]) -> Placement:
    """Clients on `standards` in turn, uniform over the ring between the nearest and the farthest of their standard.

    A wire has no place: distance 0. InputError for an unknown standard or none.
    """
    require(len(standards) > 0, "no standard", allowed=", ".join(STANDARDS), remedy="name at least one standard")
    for standard in standards:
        require_known("standard", standard, STANDARDS)
    names = tuple(standards[client % len(standards)] for client in range(n_clients))
    uniform = rng.random((3, n_clients))  # place, direction, sight: the same numbers whatever the standards
    shadow = rng.normal(size=n_clients)
    distance, kappa, sigma = np.zeros(n_clients), np.zeros(n_clients), np.zeros(n_clients)
    sight, decorrelation, fading = np.zeros(n_clients, dtype=bool), np.full(n_clients, np.inf), [RAYLEIGH] * n_clients
    for client, name in enumerate(names):
        radio = STANDARDS[name]
        if isinstance(radio, Wired):
            continue
        nearest, farthest = radio.reach_m
        distance[client] = np.sqrt(nearest**2 + (farthest**2 - nearest**2) * uniform[0, client])
        sight[client] = radio.sight is not None and uniform[2, client] < radio.sight(distance[client])
        way = radio.los if sight[client] else radio.nlos
        kappa[client] = radio.kappa(distance[client], way)
        sigma[client], decorrelation[client], fading[client] = way.shadowing_db, way.decorrelation_m, way.fading
    return Placement(names, distance, 2 * np.pi * uniform[1], sight, shadow, kappa, sigma, decorrelation, tuple(fading))
