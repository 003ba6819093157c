"""A run's record as other tools read it: CSV, TensorBoard, MLflow."""

from fedlite.reporting.trackers.tracker import NAMES, Tracker, Trackers, check

__all__ = ["NAMES", "Tracker", "Trackers", "check"]
