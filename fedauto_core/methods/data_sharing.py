"""Data sharing: every client holds a share of the public data besides its own, and FedAvg averages.

Zhao, Li, Lai, Suda, Civin, Chandra, "Federated learning with non-IID data", 2018 (arXiv 1806.00582). Assumes full
participation; knows nothing of the network, but the server must be allowed to hand out its data. No memory at the
server. Once, before round 1, each client receives `public_share` of the n_0 public samples, of D numbers each, and
keeps them (the cost leaves out the labels and the rounding to whole samples).
Differs from the paper in: no warm-up model (every method starts from the same pre-trained w0); each client's share is
drawn at random from the public data as they are, which need not be balanced. Received samples count in n_j.
"""

from dataclasses import dataclass

from .base import Cost
from .checks import check_share
from .fedavg import FedAvg


@dataclass(frozen=True)
class DataSharing(FedAvg):
    """FedAvg; client j trains on its shard and `public_share` of the public data (see `data.share_public`)."""

    name = "data_sharing"
    source = "Zhao et al. 2018"
    family = "public data again"
    contest = "public data"
    assumes = "full participation"
    public_data = "as a participant; a share at every client"
    cost = Cost(once="public_share * n_0 * D", clients="N * public_share * n_0 * D")
    knob = ("public_share", (0.1, 0.3, 1.0))
    public_share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "public_share", "use fedavg to share nothing")
