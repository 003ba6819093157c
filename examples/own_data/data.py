"""Records from wherever they are: here made-up vibrations of four machines, sound or worn."""

import numpy as np


def load(*, machines=4, records=400):
    rng = np.random.default_rng(0)
    worn, owners = rng.integers(0, 2, records), rng.integers(0, machines, records)
    pitch = 8 + 3 * worn + owners  # each machine turns at its own speed
    wave = np.sin(2 * np.pi * pitch[:, None] * np.linspace(0, 1, 64))
    x = wave[:, None] + 0.7 * rng.normal(size=(records, 1, 64))
    y = np.where(worn, "worn", "sound")
    return {"x": x, "y": y, "groups": [f"machine-{number}" for number in owners]}
