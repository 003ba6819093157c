"""A trained model used and judged after its run, on the machine of whoever has both.

Nothing here sends anything anywhere.
"""

from fedlite.evaluation.evaluate import evaluate
from fedlite.evaluation.predictions import Predictions, predict
from fedlite.evaluation.records import Records, held_out, read
from fedlite.evaluation.trained import Trained, open_model

__all__ = [
    "Predictions",
    "Records",
    "Trained",
    "evaluate",
    "held_out",
    "open_model",
    "predict",
    "read",
]
