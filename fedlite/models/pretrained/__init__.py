"""Pretrained transformers with few trained values: the frozen rest is never sent."""

from fedlite.models.pretrained.classifier import Classifier, lora

__all__ = ["Classifier", "lora"]
