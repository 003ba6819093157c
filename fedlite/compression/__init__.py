"""Updates in few bytes: selection, quantization, positions, frame, and error feedback."""

from __future__ import annotations

from fedlite.compression.batch import Packing, compress_many, decompress_many
from fedlite.compression.compressor import COMPRESSORS, KNOWN, make
from fedlite.compression.dense import Dense
from fedlite.compression.feedback import Residual, Sent, restore
from fedlite.compression.frame import (
    HEADER_BYTES,
    PAD_BYTES,
    SALT_BYTES,
    Envelope,
    disclosed_records,
    pack,
    pad,
    unpack,
    unpad,
)
from fedlite.compression.gain import gain
from fedlite.compression.interface import NOTHING, Compressor, Context, Decoded
from fedlite.compression.joined import Joined, Stretch, compress, compressing, pieces_of, split
from fedlite.compression.part import Part
from fedlite.compression.quantization import QUANTIZERS, Quantizer
from fedlite.compression.selection import count, top_k
from fedlite.compression.topk import TopK

__all__ = [
    "COMPRESSORS",
    "HEADER_BYTES",
    "KNOWN",
    "NOTHING",
    "PAD_BYTES",
    "QUANTIZERS",
    "SALT_BYTES",
    "Compressor",
    "Context",
    "Decoded",
    "Dense",
    "Envelope",
    "Joined",
    "Packing",
    "Part",
    "Quantizer",
    "Residual",
    "Sent",
    "Stretch",
    "TopK",
    "compress",
    "compress_many",
    "compressing",
    "count",
    "decompress_many",
    "disclosed_records",
    "gain",
    "make",
    "pack",
    "pad",
    "pieces_of",
    "restore",
    "split",
    "top_k",
    "unpack",
    "unpad",
]
