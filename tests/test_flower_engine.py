"""The same once through Flower's own simulation engine, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr.app", reason="needs the extra [flower]")
pytest.importorskip("ray", reason="needs the extra [flower]")

from test_flower import BATCH, ROUNDS, STEPS, TRACE, simulated

from fedauto_core.engine import Schedule
from fedauto_core.methods import make_method

NAMES = ("fedavg", "fedauto", "mifa")
SCRIPT = """
import json, sys
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from test_flower import *

apps = {j: client(j, name=f"site {j}") for j in range(1, N + 1)}
client_app, server_app, models = ClientApp(), ServerApp(), {}

@client_app.query()
def query(message, context):
    return apps[1 + int(context.node_config["partition-id"])](message, context)

@client_app.train()
def train(message, context):
    participant = 1 + int(context.node_config["partition-id"])
    assert TRACE.arrived[message.content["config"]["server-round"] - 1, participant - 1], "lost on its way"
    return apps[participant](message, context)

@server_app.main()
def main(grid, context):
    for name in sys.argv[1:]:
        data = ServerData(PUBLIC, ServerTrainer(True))
        strategy = MethodStrategy(make_method(name), data, steps=STEPS, fraction_evaluate=0)
        models[name] = [model.tolist() for model in deployed(strategy, grid, Schedule(3, STEPS, BATCH), seconds=60.0)]

resources = {"init_args": {"num_cpus": 1, "include_dashboard": False}, "client_resources": {"num_cpus": 1}}
run_simulation(server_app, client_app, N, backend_config=resources)
json.dump(models, sys.stdout)
"""


def test_flowers_engine_gives_the_model_of_the_simulation(tmp_path):
    """Lost updates are clients that raise."""
    tests = Path(__file__).parent
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    places = {"FLWR_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, sys.path)])}
    command = [sys.executable, "-c", SCRIPT, *NAMES]
    environment = os.environ | quiet | places | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not TRACE.arrived[:3].all()
    models = json.loads(done.stdout.splitlines()[-1])
    for name in NAMES:
        wanted = simulated(make_method(name), True, Schedule(ROUNDS, STEPS, BATCH))[:3]
        for mine, theirs in zip(models[name], wanted, strict=True):
            assert np.abs(np.array(mine) - theirs.numpy()).max() < 1e-5
