"""FedAuto in APPFL's simulation in virtual time: digits, two classes at each site, and rounds that end by a deadline.

PYTHONPATH=examples/flower python examples/appfl/simulate.py, in an environment with the extra [appfl].
"""

import logging
import tempfile
from pathlib import Path

import torch
from appfl.agent import ServerAgent
from appfl.vsim import ClientProfile, SyncSimDriver
from digits_app.task import federation, minibatches, network, samples
from omegaconf import OmegaConf
from torch.nn import functional

CLIENTS, ROUNDS, STEPS, LR = 6, 8, 5, 0.3
DEADLINE_S, STEP_S = 1.0, 0.1
SLOWNESS = (1, 1, 1, 1, 3, 3)  # the last two sites, and with them their classes, miss every deadline


class Site:
    """What the driver asks of a client; its label counts come with its updates."""

    def __init__(self, number: int) -> None:
        self.number, self.x, self.y = number, *samples(CLIENTS, number)
        self.model, self.round = network(), 0

    def get_id(self) -> str:
        return f"site {self.number}"

    def load_parameters(self, state: dict) -> None:
        self.model.load_state_dict(state)

    def train(self) -> None:
        optimiser = torch.optim.SGD(self.model.parameters(), lr=LR)
        self.round += 1
        for rows in minibatches(len(self.y), STEPS, 16, 1000 * self.round + self.number):
            optimiser.zero_grad()
            functional.cross_entropy(self.model(self.x[rows]), self.y[rows]).backward()
            optimiser.step()

    def get_parameters(self) -> tuple[dict, dict]:
        counts = torch.bincount(self.y, minlength=10).tolist()
        return self.model.state_dict(), {"current_local_steps": STEPS, "label_counts": counts}


def simulate(method: str) -> SyncSimDriver:
    """The driver after all rounds under `method`."""
    server = {
        "num_clients": CLIENTS,
        "num_global_epochs": ROUNDS,
        "device": "cpu",
        "scheduler": "SyncScheduler",
        "scheduler_kwargs": {"num_clients": CLIENTS},
        "aggregator": "FedAutoAggregator",
        "aggregator_path": str(Path(__file__).parent / "fedauto_aggregator.py"),
        "aggregator_kwargs": {"method": method, "clients": CLIENTS, "lr": LR},
        "logging_output_dirname": tempfile.gettempdir(),
    }
    agent = ServerAgent(OmegaConf.create({"client_configs": {}, "server_configs": server}))
    sites = [Site(number) for number in range(1, 1 + CLIENTS)]
    for site in sites:
        agent.set_sample_size(site.get_id(), len(site.y))
    profiles = {site.get_id(): ClientProfile(slow, 100.0) for site, slow in zip(sites, SLOWNESS, strict=True)}
    driver = SyncSimDriver(
        agent,
        sites,
        profiles,
        CLIENTS,
        logging.getLogger("simulate"),
        base_step_time=STEP_S,
        mode="window",
        min_responses=1,
        window_duration=DEADLINE_S,
        target_rounds=ROUNDS,
    )
    driver.run()
    return driver


@torch.no_grad()
def accuracy(state: dict) -> float:
    dataset, model = federation(CLIENTS).dataset, network()
    model.load_state_dict(state)
    return float((model(dataset.x_test).argmax(dim=1) == dataset.y_test).float().mean())


if __name__ == "__main__":
    for method in ("fedauto", "fedavg"):
        driver = simulate(method)
        for entry in driver.history:
            heard = ", ".join(sorted(entry["accepted_cids"]))
            print(f"round {entry['round'] + 1}, {entry['t_barrier']:.1f} s: {heard}")
        print(f"{method}: accuracy {accuracy(driver.server.get_parameters(serial_run=True)):.3f}")
