"""The bytes in docs/wire-format.md, and what they are said to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from fedlite.compression import (
    Envelope,
)
from fedlite.messages import site_id

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wire-format.md").read_text("utf-8")
VECTORS = {
    name: bytes.fromhex(text) for name, text in re.findall(r"```hex (\S+)\n(.*?)```", PAGE, re.S)
}
VECTOR = np.array([0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.5, 0.0], np.float32)
# A tensor of 3 and one of 5.
SECTIONS = (3, 5)
SEED, RUN, LAYOUT = 5, b"run-0001", bytes.fromhex("c88d2fc158f66166")
BEFORE, MODEL = bytes.fromhex("1112131415161718"), bytes.fromhex("0102030405060708")
SITE = site_id("site-01")
UPDATE = Envelope(run=RUN, round=3, site=SITE, layout=LAYOUT, base=MODEL, seed=SEED)
BROADCAST = Envelope(run=RUN, round=3, site=0, layout=LAYOUT, base=BEFORE, seed=SEED)


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


LARGEST = [0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.0, 0.0]
# For each vector: its codec, the compressor, its settings, and what is decoded.
FRAMES: dict[str, tuple[int, str, dict[str, Any], list[float]]] = {
    "dense": (0, "dense", {"values": "fp32"}, VECTOR.tolist()),
    "sign": (1, "topk", {"density": 0.25, "values": "sign"}, [0.0, 2.0, 0.0, -2.0, *[0.0] * 4]),
    "fp32": (2, "topk", {"density": 0.25, "values": "fp32"}, LARGEST),
    "sign-per-chunk": (3, "topk", {"density": 0.25, "values": "sign-per-chunk"}, LARGEST),
    "sign-per-tensor": (
        *(11, "topk", {"density": 0.25, "values": "sign-per-tensor"}),
        [0.0, 1.4865088, 0.0, -2.5, *[0.0] * 4],
    ),
    "fp16": (4, "topk", {"density": 0.25, "values": "fp16"}, LARGEST),
    "levels": (
        *(5, "topk", {"density": 0.375, "values": "levels-2"}),
        [0.0, 1.0, 0.0, -2.5, 0.0, 0.0, 1.0, 0.0],
    ),
    "dense-fp16": (6, "dense", {"values": "fp16"}, VECTOR.tolist()),
    "randk": (
        *(7, "randk", {"density": 0.5, "values": "fp32"}),
        [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    ),
    "eden": (
        *(8, "eden", {"bits": 1}),
        numbers("0.07219472 1.6027228 0.057755776 -2.4546206")
        + numbers("0.028877888 -0.11551155 0.4187294 0.014438944"),
    ),
    "eden-2": (
        *(8, "eden", {"bits": 2}),
        numbers("-0.005035508 1.5154806 -0.05312704 -2.501161")
        + numbers("-0.051112834 -0.11118272 0.4477522 0.08316198"),
    ),
    "rotated-topk": (
        *(10, "rotated-topk", {"density": 0.875}),
        numbers("1.1448594 1.7990645 0.16355118 -2.1261673")
        + numbers("0.16355148 -0.16355138 1.471962 -0.8177566"),
    ),
}
SETS = {
    "positions": [3, 14, 15, 92],
    "positions-thirds": [26, 35, 79, 82, 83, 85],
}
NESTED = np.array([1.0] * 10 + [-3.0] + [1.0] * 53, np.float32)
SPLIT, SPLIT_SECTIONS = [0, 1, 2, 3, 4, 5, 6, 7, 100], (8, 2, 118)
