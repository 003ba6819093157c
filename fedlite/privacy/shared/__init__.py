"""Noise that the sites of a federation share: what each adds, and what only their sum protects."""
