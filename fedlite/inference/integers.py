"""A transformer's graph in 8-bit integers, for which no record is looked at.

A matrix of weights has a scale for each of its columns, and what it multiplies one for each token,
found as the token comes: a token's largest value becomes 127. So no range comes from any record, an
answer does not depend on what else is in its batch, and a token with large values takes nothing
from the others. A table of which rows are read has a scale for each row, and 8 bits a value or 4,
of which two share a byte. What is added, normalised or compared stays float32.

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


def in_integers(graph: bytes, table: int = 8) -> bytes:
    """Return a serialised graph with its constant matrices and tables as 8-bit integers.

    Matrices are the second inputs of `MatMul`, [in, out]; those of `Gemm`, the heads, stay. table:
    how many bits a value of a table of rows has, 8 or 4.

    Raises ValueError where onnx is not installed.
    """
    graphs.needs("onnx")
    import onnx

    model = onnx.load_model_from_string(graph)
    _Rewriting(model, table).rewrite()
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


class _Rewriting:
    def __init__(self, model: ModelProto, table: int) -> None:
        from onnx import helper, numpy_helper

        self.graph, self.bits = model.graph, table
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
        if f"{weight}/int8" not in self.values:
            kept, scale = rows_in(self.read(self.values[weight]).T, 8)
            self._put(weight, kept.T.copy(), scale[:, 0])
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
        # From 1 to 15; the first half of a row above, the second below.
        above, below = np.split((kept + 8).astype(np.uint8), 2, axis=1) if half else (kept, kept)
        self._put(table, above * np.uint8(16) + below if half else kept, scale)
        self.nodes += [
            self.make("Gather", [f"{table}/int8", ids], [f"{out}/int8"], axis=0),
            self.make("Cast", [f"{out}/int8"], [f"{out}/{'both' if half else 'whole'}"], to=1),
            self.make("Gather", [f"{table}/scale", ids], [f"{out}/scale"], axis=0),
        ]
        if half:
            self.nodes += [
                self.make("Div", [f"{out}/both", "int8/nibble"], [f"{out}/shifted"]),
                self.make("Floor", [f"{out}/shifted"], [f"{out}/above"]),
                self.make("Mul", [f"{out}/above", "int8/nibble"], [f"{out}/upper"]),
                self.make("Sub", [f"{out}/both", f"{out}/upper"], [f"{out}/below"]),
                self.make("Concat", [f"{out}/above", f"{out}/below"], [f"{out}/row"], axis=-1),
                self.make("Sub", [f"{out}/row", "int8/eight"], [f"{out}/whole"]),
            ]
        self.nodes.append(self.make("Mul", [f"{out}/whole", f"{out}/scale"], [out]))
