"""A transformer's graph in 8-bit integers, for which no record is looked at.

A matrix of weights has a scale for each of its columns, and what it multiplies one for each token,
found as the token comes: a token's largest value becomes 127. So no range comes from any record, an
answer does not depend on what else is in its batch, and a token with large values takes nothing
from the others. A table of which rows are read has a scale for each row. Both may have 4 bits a
value, of which two share a byte; those of matrices are unpacked once, as a graph is loaded, and
computed with as others are. What is added, normalised or compared stays float32.

Source: Yao et al. 2022, "ZeroQuant", section 3.1 (token-wise activations); only operators of ONNX
itself are used, `MatMulInteger` above all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.inference import graphs

if TYPE_CHECKING:
    from onnx import ModelProto

# A table that is read by rows and has fewer values stays as it is.
_FEWEST = 1 << 16
_STEPS = 127
# Nothing is divided by less.
_LEAST = 1e-20


def rows_in(table: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a table as whole numbers of so many bits, int8 [rows, width], and scales [rows, 1].

    >>> kept, scale = rows_in(np.array([[7.0, -3.4]], np.float32), 4)
    >>> kept.tolist(), scale.tolist()
    ([[7, -3]], [[1.0]])
    """
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / most, _LEAST)
    return np.round(table / scale).astype(np.int8), scale.astype(np.float32)


def in_integers(graph: bytes, table: int = 8, matrices: int = 8) -> bytes:
    """Return a serialised graph with its constant matrices and tables as 8-bit integers.

    Matrices are the second inputs of `MatMul`, [in, out]; those of `Gemm`, the heads, stay. table,
    matrices: how many bits a value of a table of rows has, and of a matrix, 8 or 4.

    Raises ValueError where onnx is not installed.
    """
    graphs.needs("onnx")
    import onnx

    model = onnx.load_model_from_string(graph)
    _Rewriting(model, table, matrices).rewrite()
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


def in_floats(graph: bytes) -> bytes:
    """Return a graph of integers with their products as float32 multiplies the same whole numbers.

    Exact for rows of up to 1,024 values, whose sums stay below 2^24: another way to the same
    answers, by none of the kernels for integers, of which those without VNNI may overflow.

    Raises ValueError where onnx is not installed.
    """
    graphs.needs("onnx")
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(graph)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "MatMulInteger":
            nodes.append(node)
            continue
        out = node.output[0]
        for name, of in zip(node.input, ("x", "weight", "middle"), strict=True):
            nodes.append(helper.make_node("Cast", [name], [f"{out}/{of}"], to=1))
        nodes += [
            helper.make_node("Sub", [f"{out}/x", f"{out}/middle"], [f"{out}/above"]),
            helper.make_node("MatMul", [f"{out}/above", f"{out}/weight"], [f"{out}/sum"]),
            helper.make_node("Cast", [f"{out}/sum"], [out], to=6),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found: bytes = model.SerializeToString()
    return found


class _Rewriting:
    def __init__(self, model: ModelProto, table: int, matrices: int) -> None:
        from onnx import helper, numpy_helper

        self.graph, self.bits, self.matrices = model.graph, table, matrices
        self.make, self.array, self.read = (
            helper.make_node,
            numpy_helper.from_array,
            numpy_helper.to_array,
        )
        self.values = {one.name: one for one in model.graph.initializer}
        self.nodes: list[Any] = []
        self.tokens: dict[str, str] = {}

    def rewrite(self) -> None:
        """Replace the nodes in place."""
        for node in self.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self.values:
                self._product(node)
            elif node.op_type == "Gather" and self._size(node.input[0]) >= _FEWEST:
                self._rows(node)
            else:
                self.nodes.append(node)
        constants = {
            "steps": np.float32(1 / _STEPS),
            "one": np.float32(1),
            "middle": np.uint8(128),
            "last": np.array([-1], np.int64),
            "least": np.float32(_LEAST),
            "nibble": np.float32(16),
            "eight": np.float32(8),
        }
        self.values |= {f"int8/{k}": self.array(v, f"int8/{k}") for k, v in constants.items()}
        used = {name for node in self.nodes for name in node.input}
        # Shapes that were inferred for what is no longer there.
        for of, found in (
            (self.graph.node, self.nodes),
            (self.graph.initializer, [one for name, one in self.values.items() if name in used]),
            (self.graph.value_info, []),
        ):
            del of[:]
            of.extend(found)

    def _size(self, name: str) -> int:
        one = self.values.get(name)
        return int(np.prod(one.dims)) if one is not None and len(one.dims) == 2 else 0

    def _put(self, name: str, kept: NDArray[Any], scale: NDArray[np.float32]) -> None:
        for of, one in (("int8", kept), ("scale", scale)):
            self.values[f"{name}/{of}"] = self.array(one, f"{name}/{of}")

    def _quantized(self, x: str) -> str:
        """Return what stands for a tensor [..., in] as integers; several matrices may read it."""
        if x in self.tokens:
            return self.tokens[x]
        name = self.tokens[x] = f"int8/{len(self.tokens)}"
        self.nodes += [
            self.make("Abs", [x], [f"{name}/sizes"]),
            self.make("ReduceMax", [f"{name}/sizes", "int8/last"], [f"{name}/most"], keepdims=1),
            self.make("Max", [f"{name}/most", "int8/least"], [f"{name}/above"]),
            self.make("Mul", [f"{name}/above", "int8/steps"], [f"{name}/scale"]),
            self.make("Div", [x, f"{name}/scale"], [f"{name}/wide"]),
            self.make("QuantizeLinear", [f"{name}/wide", "int8/one", "int8/middle"], [name]),
        ]
        return name

    def _product(self, node: Any) -> None:
        x, weight = node.input
        out = node.output[0]
        if f"{weight}/scale" not in self.values:
            whole = self.read(self.values[weight])
            half = self.matrices == 4 and len(whole) % 2 == 0
            kept, scale = rows_in(whole.T, 4 if half else 8)
            stored = f"{weight}/both" if half else f"{weight}/int8"
            self.values[stored] = self.array(packed(kept.T, 0) if half else kept.T.copy(), stored)
            self.values[f"{weight}/scale"] = self.array(scale[:, 0].copy(), f"{weight}/scale")
            if half:
                self._unpack(weight, 0)
                self.nodes.append(self.make("Cast", [f"{weight}/whole"], [f"{weight}/int8"], to=3))
        name = self._quantized(x)
        self.nodes += [
            self.make("MatMulInteger", [name, f"{weight}/int8", "int8/middle"], [f"{out}/int32"]),
            self.make("Cast", [f"{out}/int32"], [f"{out}/whole"], to=1),
            self.make("Mul", [f"{out}/whole", f"{weight}/scale"], [f"{out}/columns"]),
            self.make("Mul", [f"{out}/columns", f"{name}/scale"], [out]),
        ]

    def _rows(self, node: Any) -> None:
        table, ids = node.input
        out = node.output[0]
        whole = self.read(self.values[table])
        half = self.bits == 4 and whole.shape[1] % 2 == 0
        kept, scale = rows_in(whole, 4 if half else 8)
        self._put(table, packed(kept, 1) if half else kept, scale)
        self.nodes += [
            self.make("Gather", [f"{table}/int8", ids], [f"{out}/{'both' if half else 'int8'}"]),
            self.make("Gather", [f"{table}/scale", ids], [f"{out}/scale"]),
        ]
        if half:
            self._unpack(out, -1)
        else:
            self.nodes.append(self.make("Cast", [f"{out}/int8"], [f"{out}/whole"], to=1))
        self.nodes.append(self.make("Mul", [f"{out}/whole", f"{out}/scale"], [out]))

    def _unpack(self, name: str, axis: int) -> None:
        """Make whole numbers, float32, of two to a byte; see `packed`."""
        self.nodes += [
            self.make("Cast", [f"{name}/both"], [f"{name}/pairs"], to=1),
            self.make("Div", [f"{name}/pairs", "int8/nibble"], [f"{name}/shifted"]),
            self.make("Floor", [f"{name}/shifted"], [f"{name}/above"]),
            self.make("Mul", [f"{name}/above", "int8/nibble"], [f"{name}/upper"]),
            self.make("Sub", [f"{name}/pairs", f"{name}/upper"], [f"{name}/below"]),
            self.make("Concat", [f"{name}/above", f"{name}/below"], [f"{name}/row"], axis=axis),
            self.make("Sub", [f"{name}/row", "int8/eight"], [f"{name}/whole"]),
        ]


def packed(kept: NDArray[np.int8], axis: int) -> NDArray[np.uint8]:
    """Return whole numbers from -7 to 7, two to a byte: the first half along an axis above.

    >>> packed(np.array([[-7, 7]], np.int8), 1).tolist()
    [[31]]
    """
    above, below = np.split((kept + 8).astype(np.uint8), 2, axis=axis)
    found: NDArray[np.uint8] = above * np.uint8(16) + below
    return found
