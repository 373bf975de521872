"""A method of this project as an aggregator of APPFL, which loads it by `aggregator_path`."""

from appfl.algorithm.aggregator import BaseAggregator
from digits_app.task import network, samples
from omegaconf import DictConfig
from torch import Tensor, from_numpy

from fedauto_core.methods import make_method
from fedauto_core.server import Coordinator, ServerData, Update, torch_data


def arrays(state: dict[str, Tensor]) -> dict:
    return {name: part.numpy() for name, part in state.items()}


def public_data(config: DictConfig) -> ServerData:
    return torch_data(network(), *samples(config.clients, 0), 10, lr=config.lr, batch=16)


class FedAutoAggregator(BaseAggregator):
    def __init__(self, aggregator_configs, logger):
        self.server = Coordinator(make_method(aggregator_configs.method), public_data(aggregator_configs))
        self.state = network().state_dict()

    def get_parameters(self, **asked):
        return self.state

    def aggregate(self, local_models, label_counts, **told):
        came = {c: Update(arrays(m), self.client_sample_size[c], label_counts[c]) for c, m in local_models.items()}
        self.state = {name: from_numpy(part) for name, part in self.server.round(arrays(self.state), came).items()}
        return self.state
