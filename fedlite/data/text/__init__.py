"""Texts: cleaned where they are, then made into token ids; no network is loaded for it."""
