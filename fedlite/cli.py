"""The entry point of the `fedlite` command."""

import os

# One thread a process, as for torch (`fedlite.training.share`): NumPy's linear algebra would wake
# one for each core, and two that share a busy core wait for each other. It is read at the import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from fedlite.commands.main import main

__all__ = ["main"]
