"""A model with a shallow and a deep branch as ONNX graphs, for devices without PyTorch.

Two graphs for batches: `stem` (records to hidden values and the early answer) and `tail` (hidden
values to the deep answer), between which a batch is thinned out. One graph for single records, in
which an `If` decides: what leaves early never enters the tail.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedlite.models import Branched

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Routers that the one graph can compute itself.
IN_GRAPH = ("confidence", "entropy", "margin")
# Above every score.
NEVER = 2.0
_BATCH, _LENGTH = "batch", "length"


class StemAndExit(nn.Module):
    """What answers early: records to hidden values and the early answer."""

    def __init__(self, stem: nn.Module, exit: nn.Module) -> None:
        """Keep both."""
        super().__init__()
        self.stem, self.exit = stem, exit

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden values, and logits [n, classes]."""
        hidden = self.stem(x)
        return hidden, self.exit(hidden)


def needs(*packages: str) -> None:
    """Raise ValueError where one of these packages is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"{name}: must be installed for bundles, and is not; pip install 'fedlite[deploy]'"
            )


def traced(model: Branched) -> tuple[bytes, bytes]:
    """Return stem and tail of a model, in evaluation mode, as serialised ONNX models.

    Raises ValueError where a package is missing, or PyTorch cannot say a layer in ONNX.
    """
    needs("onnx", "onnxscript")
    deployed = model.deployed().eval()
    records = model.made_up(2)
    # Texts are as long as they are: tokens behind a mask, and what comes of each token.
    texts = not records.is_floating_point()
    with torch.no_grad():
        hidden = deployed.stem(records)
    early = StemAndExit(deployed.stem, deployed.exit)
    stem = _traced(early, records, "x", ["hidden", "early"], length=2 if texts else None)
    tail = _traced(deployed.tail, hidden, "hidden", ["deep"], length=1 if texts else None)
    return stem.SerializeToString(), tail.SerializeToString()


def joined(stem: bytes, tail: bytes, router: str, threshold: float | None) -> bytes | None:
    """Return the one graph of both, serialised; None where the router does not fit into one.

    A threshold of None lets none leave early.
    """
    if router not in IN_GRAPH:
        return None
    import onnx

    first, rest = (onnx.load_model_from_string(part) for part in (stem, tail))
    found: bytes = _joined(first, rest, router, threshold).SerializeToString()
    return found


def _traced(
    part: nn.Module, example: Tensor, name: str, outputs: list[str], *, length: int | None
) -> ModelProto:
    """Return a part as ONNX. length: the axis of its input, beside the batch's, of any size."""
    axes = {0: torch.export.Dim(_BATCH)}
    if length is not None:
        axes[length] = torch.export.Dim(_LENGTH)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    # It says which libraries it has not found, and needs none of them.
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                part.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                external_data=False,
                input_names=[name],
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:  # whatever the tracing of somebody's layers raises
        first = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"model.name: must be a network that torch.onnx.export takes, and is not "
            f"({type(error).__name__}: {''.join(first)[:200]}); use layers that it knows"
        ) from error
    finally:
        logger.setLevel(level)
    proto: ModelProto = program.model_proto
    _bare(proto.graph)
    return proto


def bare(graph: bytes) -> bytes:
    """Return a serialised model without where in somebody's files its nodes come from."""
    import onnx

    proto = onnx.load_model_from_string(graph)
    _bare(proto.graph)
    proto.ClearField("metadata_props")
    found: bytes = proto.SerializeToString()
    return found


def _bare(graph: GraphProto) -> None:
    """Take away where in somebody's files each node comes from: bundles go to others."""
    for one in (graph, *graph.node, *graph.initializer, *graph.value_info):
        one.ClearField("doc_string")
        if hasattr(one, "metadata_props"):
            one.ClearField("metadata_props")


def _joined(stem: ModelProto, tail: ModelProto, router: str, threshold: float | None) -> ModelProto:
    """Return one model of a single record [1, *shape]: `answer` [1, classes], and `leaves` bool."""
    from onnx import TensorProto, checker, compose, helper

    first, rest = (
        compose.add_prefix(part, prefix) for part, prefix in ((stem, "stem/"), (tail, "tail/"))
    )
    early, hidden = "stem/early", "stem/hidden"
    classes = stem.graph.output[1].type.tensor_type.shape.dim[1].dim_value
    given = stem.graph.input[0].type.tensor_type
    # A text is as long as it is: that axis has a name in the place of a size.
    shape = [dim.dim_param or dim.dim_value for dim in given.shape.dim][1:]
    answer = [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, classes])]
    body = _branch(rest.graph, hidden)
    deep = helper.make_graph(
        body,
        "deep",
        [],
        [helper.make_tensor_value_info("tail/deep", TensorProto.FLOAT, [1, classes])],
        list(rest.graph.initializer),
    )
    shallow = helper.make_graph(
        [helper.make_node("Identity", [early], ["shallow/answer"])],
        "shallow",
        [],
        [helper.make_tensor_value_info("shallow/answer", TensorProto.FLOAT, [1, classes])],
    )
    limit = NEVER if threshold is None else threshold
    nodes = [
        *first.graph.node,
        *_score(router, early),
        helper.make_node("GreaterOrEqual", ["score", "threshold"], ["leaves"]),
        helper.make_node("If", ["leaves"], ["answer"], then_branch=shallow, else_branch=deep),
    ]
    graph = helper.make_graph(
        nodes,
        "adaptive",
        [helper.make_tensor_value_info("stem/x", given.elem_type, [1, *shape])],
        [*answer, helper.make_tensor_value_info("leaves", TensorProto.BOOL, [])],
        [
            *first.graph.initializer,
            helper.make_tensor("threshold", TensorProto.DOUBLE, [], [limit]),
            *_constants(classes, {name for node in nodes for name in node.input}),
        ],
    )
    made = helper.make_model(
        graph, opset_imports=list(stem.opset_import), ir_version=stem.ir_version
    )
    checker.check_model(made)
    return made


def _branch(graph: GraphProto, hidden: str) -> list[NodeProto]:
    """Return the tail's nodes, which read what the stem has made."""
    own = graph.input[0].name
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == own:
                node.input[at] = hidden
    return list(graph.node)


def _constants(classes: int, used: set[str]) -> list[Any]:
    from onnx import TensorProto, helper

    found = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("tiny", TensorProto.DOUBLE, [], [1e-300]),
        helper.make_tensor("one", TensorProto.DOUBLE, [], [1.0]),
        helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0]),
        helper.make_tensor("per", TensorProto.DOUBLE, [], [1 / math.log(max(2, classes))]),
    ]
    return [one for one in found if one.name in used]


def _score(router: str, early: str) -> list[NodeProto]:
    """Return the nodes of a router's score, a scalar: in float64, as where it was calibrated."""
    from onnx import TensorProto, helper

    make = helper.make_node
    nodes = [
        make("Cast", [early], ["early/wide"], to=TensorProto.DOUBLE),
        make("Softmax", ["early/wide"], ["shares"], axis=1),
    ]
    if router == "confidence":
        nodes.append(make("ReduceMax", ["shares", "axis"], ["score/row"], keepdims=0))
    elif router == "margin":
        nodes += [
            make("TopK", ["shares", "two"], ["top", "top/at"], axis=1),
            make("Split", ["top"], ["top/first", "top/second"], axis=1, num_outputs=2),
            make("Sub", ["top/first", "top/second"], ["score/row"]),
        ]
    else:
        nodes += [
            make("Max", ["shares", "tiny"], ["shares/above"]),
            make("Log", ["shares/above"], ["logs"]),
            make("Mul", ["shares", "logs"], ["terms"]),
            make("ReduceSum", ["terms", "axis"], ["terms/sum"], keepdims=0),
            make("Mul", ["terms/sum", "per"], ["terms/part"]),
            make("Add", ["terms/part", "one"], ["score/free"]),
            # Of equal shares rounding makes it less than 0, and from 0 on all leave early.
            make("Max", ["score/free", "zero"], ["score/row"]),
        ]
    return [*nodes, make("Squeeze", ["score/row"], ["score"])]
