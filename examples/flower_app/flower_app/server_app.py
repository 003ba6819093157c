"""What runs at the server."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import fedlite.flower
from flower_app.task import Net, load_test_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and say how good the model is."""
    config = context.run_config
    loader = load_test_data(config["data"])

    def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = Net(config["batch-norm"])
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test(model, loader)
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy = fedlite.flower.Compressed(FedAvg(fraction_train=config["fraction-train"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net(config["batch-norm"]).state_dict()),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    print(f"accuracy: {result.evaluate_metrics_serverapp[config['num-server-rounds']]['accuracy']}")
