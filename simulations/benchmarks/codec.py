"""What top-k with signs costs in bytes, time and memory, beside other ways to do the same.

`python -m simulations.benchmarks.codec` compresses Laplace vectors with one thread and prints three
tables: the stages of `TopK`; its selection beside `torch.topk` and `numpy.argpartition`; and its
bytes beside other formats of the same selected coordinates. All of a row is measured in one run, by
turns and in processor time, so that ratios hold on a busy machine too. Formats of packages that are
not installed (zstandard, constriction) are left out, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fedlite.compression import HEADER_BYTES, TopK, positions
from fedlite.compression.quantization import quantizer
from fedlite.compression.selection import count, select
from fedlite.compression.topk import BLOCK
from server.summary import machine
from simulations.benchmarks.formats import Format, Indices, Values, installed

SIZES, DENSITIES = (10**6, 10**7, 10**8), (0.001, 0.01, 0.03, 0.1)
SIGN = quantizer("sign")


def laplace(n: int) -> Values:
    """Return float32[n], the same for the same n on one version of NumPy."""
    rng = np.random.default_rng(n)
    out = np.empty(n, dtype=np.float32)
    for start in range(0, n, 2**22):
        part = out[start : start + 2**22]
        part[:] = rng.laplace(size=part.size)
    return out


def milliseconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median processor time of every call. They take turns; the first does not count.

    The time of the thread does not grow while others have the processor, and is the time by the
    clock where nobody has.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = time.thread_time()
            call()
            if turn:
                spent[name].append(1e3 * (time.thread_time() - started))
    return {name: median(times) for name, times in spent.items()}


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that Python and NumPy held at once during `call`, its result included.

    Torch does not report what it takes.
    """
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def entropy_bits(n: int, k: int) -> float:
    """Return log2 of the number of sets of k out of n, and a bit for each sign."""
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return logs / math.log(2) + k


def stages(vector: Values, density: float, repeats: int) -> tuple[dict[str, float], Indices]:
    """Measure `TopK` and two other selections; return the figures and the indices selected."""
    n = vector.size
    compressor = TopK(density, "sign")
    blocks = [(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK)]

    def choose() -> list[tuple[Indices, Values]]:
        return [select(vector, count(b - a, density), a, b) for a, b in blocks]

    chosen = choose()

    def encode() -> None:
        for (a, b), (indices, values) in zip(blocks, chosen, strict=True):
            positions.encode(indices, b - a)
            SIGN.encode(values)

    body = compressor.compress(vector)
    decoded = compressor.decompress(body, n)
    indices = decoded.indices
    if indices is None or not np.array_equal(decoded.values < 0, vector[indices] < 0):
        raise RuntimeError("what comes back must have the signs that were sent")
    single, double = np.zeros(n, np.float32), np.zeros(n, np.float64)
    # Selection alone: torch is given the magnitudes, and its indices are left as they come.
    magnitudes = torch.from_numpy(vector).abs()
    spent = milliseconds(
        {
            "select": choose,
            "encode": encode,
            "compress": lambda: compressor.compress(vector),
            "decode": lambda: compressor.decompress(body, n),
            "scatter_float32": lambda: decoded.add_to(single, 0.5),
            "scatter_float64": lambda: decoded.add_to(double, 0.5),
            "torch_topk": lambda: torch.topk(magnitudes, indices.size, sorted=False),
            "argpartition": lambda: _argpartition(vector, indices.size),
        },
        repeats,
    )
    entropy = entropy_bits(n, indices.size) / 8
    dense = vector.nbytes
    figures = {
        **{f"{name}_ms": value for name, value in spent.items()},
        "bytes": HEADER_BYTES + len(body),
        "percent_of_dense": 100 * (HEADER_BYTES + len(body)) / dense,
        "percent_over_entropy": 100 * (len(body) / entropy - 1),
        "compress_gb_s": dense / spent["compress"] / 1e6,
        "receive_gb_s": dense / (spent["decode"] + spent["scatter_float32"]) / 1e6,
        "compress_peak_of_dense": peak(lambda: compressor.compress(vector)) / dense,
        "decompress_peak_of_dense": peak(lambda: compressor.decompress(body, n)) / dense,
        "torch_over_compress": spent["torch_topk"] / spent["compress"],
    }
    return figures, indices


def _argpartition(vector: Values, k: int) -> Indices:
    magnitude = np.abs(vector)
    return np.sort(np.argpartition(magnitude, vector.size - k)[vector.size - k :])


def rivals(
    found: list[Format], vector: Values, indices: Indices, repeats: int
) -> list[dict[str, Any]]:
    """Measure every format on the same selection; return name and figures of each."""
    n, k, values = vector.size, indices.size, vector[indices]
    rows = []
    for form in found:
        data = form.encode(indices, values, n)
        where, what = form.decode(data, n, k)
        same = what if what.dtype == np.bool_ else what < 0
        if not (np.array_equal(where, indices) and np.array_equal(same, values < 0)):
            raise RuntimeError(f"{form.name} must give back what it was given")
        spent = milliseconds(
            {
                "encode": partial(form.encode, indices, values, n),
                "decode": partial(form.decode, data, n, k),
            },
            repeats,
        )
        figures = {"bytes": len(data), "percent_of_dense": 100 * len(data) / vector.nbytes}
        if what.dtype == np.bool_:
            figures["percent_over_entropy"] = 100 * (8 * len(data) / entropy_bits(n, k) - 1)
        figures |= {f"{name}_ms": value for name, value in spent.items()}
        rows.append({"name": form.name, "figures": figures})
    return rows


def measure(
    sizes: list[int], densities: list[float], repeats: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for `TopK` and every other format at each size and density, and what is missing.

    A row has `what`, `parameters`, `units` and `figures`, all in JSON's types.
    """
    found, missing = installed()
    rows = []
    for n in sizes:
        vector = laplace(n)
        turns = repeats if n < 10**8 else max(1, repeats // 2)
        for density in densities:
            parameters = {"size": n, "density": density, "repeats": turns}
            figures, indices = stages(vector, density, turns)
            rows.append(_row("topk, sign", parameters, figures))
            for rival in rivals(found, vector, indices, max(1, turns // 2)):
                rows.append(_row(rival["name"], parameters, rival["figures"]))
    return rows, missing


_UNITS = {
    "bytes": "bytes",
    "percent_of_dense": "%",
    "percent_over_entropy": "%",
    "compress_gb_s": "GB of dense float32 a second",
    "receive_gb_s": "GB of dense float32 a second",
    "compress_peak_of_dense": "dense float32 vectors",
    "decompress_peak_of_dense": "dense float32 vectors",
    "torch_over_compress": "times",
}


def _row(what: str, parameters: dict[str, Any], figures: dict[str, float]) -> dict[str, Any]:
    units = {name: _UNITS.get(name, "ms") for name in figures}
    return {"what": what, "parameters": parameters, "units": units, "figures": figures}


_STAGES = {
    "bytes": "bytes",
    "percent_of_dense": "% of dense",
    "percent_over_entropy": "% over entropy",
    "select_ms": "select",
    "encode_ms": "quantize, encode",
    "compress_ms": "all",
    "compress_gb_s": "GB/s",
    "decode_ms": "decode",
    "scatter_float32_ms": "scatter f32",
    "scatter_float64_ms": "f64",
    "receive_gb_s": "GB/s, f32",
    "compress_peak_of_dense": "peak out",
    "decompress_peak_of_dense": "peak in",
}
_SELECTION = {
    "select_ms": "fedlite",
    "argpartition_ms": "numpy.argpartition",
    "compress_ms": "fedlite with encoding",
    "torch_topk_ms": "torch.topk alone",
    "torch_over_compress": "torch / fedlite with encoding",
}
_FORMATS = {
    "bytes": "bytes",
    "percent_of_dense": "% of dense",
    "percent_over_entropy": "% over entropy",
    "encode_ms": "encode",
    "decode_ms": "decode",
}


def render(rows: list[dict[str, Any]]) -> str:
    """Return the three Markdown tables; times in milliseconds, peaks in dense vectors."""
    own = [row for row in rows if row["what"] == "topk, sign"]
    return "\n\n".join(
        (
            _table(own, _STAGES, named=False),
            _table(own, _SELECTION, named=False),
            _table(rows, _FORMATS, named=True),
        )
    )


def _table(rows: list[dict[str, Any]], columns: dict[str, str], *, named: bool) -> str:
    head = ["n", "density", *(["format"] if named else []), *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row['parameters']['size']:.0e}", f"{100 * row['parameters']['density']:g} %"]
        cells += [row["what"]] if named else []
        for name in columns:
            value = row["figures"].get(name)
            if value is None:
                cells.append("")
            elif name == "bytes":
                cells.append(f"{value:,}")
            else:
                cells.append(f"{value:.3g}" if value < 1000 else f"{value:,.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,000,000 coordinates only")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, metavar="D")
    parser.add_argument("--repeats", type=int, default=7, help="half as many from 100,000,000 on")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [SIZES[0]] if arguments.quick else [int(size) for size in arguments.sizes]
    rows, missing = measure(sizes, list(arguments.densities), arguments.repeats)
    for package in missing:
        print(f"{package} is not installed: its formats are left out")
    print(
        f"{machine()}, one thread; milliseconds of processor time, medians; peaks in dense vectors"
    )
    print(f"\n{render(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
