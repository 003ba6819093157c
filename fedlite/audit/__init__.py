"""Audit privacy ledgers from files alone, without torch and without Flower."""

from fedlite.audit.inspection import Audit, audit

__all__ = ["Audit", "audit"]
