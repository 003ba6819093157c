"""Every value in four bits, with a scale for each block of 256 values."""

from dataclasses import dataclass

import numpy as np

from fedlite.compression import NOTHING, Decoded

BLOCK = 256


@dataclass(frozen=True)
class Nibbles:
    """Levels from -7 to 7 times the block's scale, two in a byte, after the scales."""

    name: str = "nibbles"
    codec: int = 201

    def compress(self, vector, context=NOTHING):
        blocks = np.pad(vector, (0, -len(vector) % BLOCK)).reshape(-1, BLOCK)
        scales = np.abs(blocks).max(axis=1) / np.float32(7)
        levels = np.round(blocks / np.maximum(scales, 1e-30)[:, None]) + 8
        first, second = levels.astype(np.uint8).reshape(-1, 2).T
        return scales.astype("<f4").tobytes() + (first | second << 4).tobytes()

    def decompress(self, body, size, context=NOTHING):
        if len(body) != self.limit(size):
            raise ValueError(f"body: must have {self.limit(size)} bytes, got {len(body)}")
        blocks = -(-size // BLOCK)
        scales = np.frombuffer(body, "<f4", blocks)
        if not (np.isfinite(scales).all() and np.abs(scales).max(initial=0) < 1e30):
            raise ValueError("body: must hold finite scales below 1e30")
        pairs = np.frombuffer(body, np.uint8, offset=4 * blocks)
        levels = np.stack((pairs & 15, pairs >> 4), axis=1).reshape(blocks, BLOCK)
        values = (levels.astype(np.float32) - 8) * scales[:, None]
        return Decoded(size, None, values.ravel()[:size].copy())

    def limit(self, size):
        return -(-size // BLOCK) * (4 + BLOCK // 2)


def make(settings):
    return Nibbles()
