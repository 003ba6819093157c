"""Longer studies whose figures the documentation quotes; each prints the alternatives beside."""
