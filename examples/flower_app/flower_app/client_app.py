"""What runs at a client."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import fedlite.flower
from flower_app.task import Net, load_data, test as test_fn, train as train_fn

app = ClientApp(mods=[fedlite.flower.compress()])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model that came on this client's pictures."""
    config = context.run_config
    model = Net(config["batch-norm"])
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader, _ = load_data(
        config["data"],
        context.node_config["partition-id"],
        context.node_config["num-partitions"],
        config["batch-size"],
    )
    loss = train_fn(model, loader, config["local-epochs"], config["learning-rate"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Test the model that came on the pictures that this client holds out."""
    config = context.run_config
    model = Net(config["batch-norm"])
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, loader = load_data(
        config["data"],
        context.node_config["partition-id"],
        context.node_config["num-partitions"],
        config["batch-size"],
    )
    loss, accuracy = test_fn(model, loader)
    metrics = MetricRecord(
        {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
