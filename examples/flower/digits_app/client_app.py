"""A client as for Flower's FedAvg; the last function tells its label counts, which FedAuto can use."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional

from digits_app.task import laid, minibatches, network, samples

app = ClientApp()


def data(context: Context) -> tuple[int, torch.Tensor, torch.Tensor]:
    node, partition = context.node_config, int(context.node_config["partition-id"])
    if "data" in node:
        return partition, *laid(str(node["data"]), 1 + partition)
    return partition, *samples(int(context.run_config["clients"]), 1 + partition, str(context.run_config["dataset"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    config, (partition, x, y) = message.content["config"], data(context)
    model = network(str(context.run_config["dataset"]))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=config["lr"])
    seed = 1000 * int(config["server-round"]) + partition
    for rows in minibatches(len(y), int(context.run_config["steps"]), int(context.run_config["batch"]), seed):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimiser.step()
    metrics = MetricRecord({"num-examples": len(y), "loss": loss.item()})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    partition, _, y = data(context)
    counts = MetricRecord({"label-counts": torch.bincount(y, minlength=10).tolist()})
    name = ConfigRecord({"name": f"site {partition}"})  # known again when it is started anew
    return Message(RecordDict({"metrics": counts, "config": name}), reply_to=message)
