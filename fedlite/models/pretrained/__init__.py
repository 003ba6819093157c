"""Pretrained transformers with few trained values: the frozen rest is never sent."""

from fedlite.models.pretrained.classifier import Classifier, lora
from fedlite.models.pretrained.language import Foresight, lora_lm

__all__ = ["Classifier", "Foresight", "lora", "lora_lm"]
