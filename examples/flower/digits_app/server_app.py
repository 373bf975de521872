"""The server: FedAuto in the place of FedAvg, and the test accuracy after each round."""

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch import no_grad

from digits_app.task import federation, network, samples
from fedauto_core.flower import FedAutoStrategy, torch_data
from fedauto_core.flower.diary import Diary

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    clients, name = int(run["clients"]), str(run["dataset"])
    dataset, model = federation(clients, name).dataset, network(name)

    @no_grad()
    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        right = model(dataset.x_test).argmax(dim=1) == dataset.y_test
        return MetricRecord({"accuracy": float(right.float().mean())})

    public = torch_data(network(name), *samples(clients, 0, name), 10, lr=run["lr"], batch=int(run["batch"]))
    strategy = FedAutoStrategy(public, steps=int(run["steps"]), fraction_evaluate=0.0)
    result = strategy.start(
        grid,
        ArrayRecord(model.state_dict()),
        num_rounds=int(run["rounds"]),
        timeout=float(run["deadline-s"]),
        train_config=ConfigRecord({"lr": run["lr"]}),
        evaluate_fn=Diary(run["log"], strategy, grid).of(evaluate) if run["log"] else evaluate,
    )
    for server_round, measured in result.evaluate_metrics_serverapp.items():
        print(f"after round {server_round}: accuracy {measured['accuracy']:.3f}")
    for upload in strategy.uploads:
        if not upload.arrived:
            print(f"round {upload.round}: {upload.client} is missing: {upload.cause}")
