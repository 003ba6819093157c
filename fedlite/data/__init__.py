"""Data: named sources, and their division among sites."""

from fedlite.data.bases import BASES, Base
from fedlite.data.cache import cache_folder
from fedlite.data.catalog import available, entries, fetch, fetch_missing, find, load
from fedlite.data.dataset import Dataset, SiteData, Source
from fedlite.data.entry import Entry
from fedlite.data.partition import (
    check_sites,
    lacking,
    of_one_class,
    partition,
    site_data,
    site_names,
)
from fedlite.data.sources.heart import HEART_BEDSIDE, HEART_COLUMNS
from fedlite.data.standardization import standardize

__all__ = [
    "BASES",
    "HEART_BEDSIDE",
    "HEART_COLUMNS",
    "Base",
    "Dataset",
    "Entry",
    "SiteData",
    "Source",
    "available",
    "cache_folder",
    "check_sites",
    "entries",
    "fetch",
    "fetch_missing",
    "find",
    "lacking",
    "load",
    "of_one_class",
    "partition",
    "site_data",
    "site_names",
    "standardize",
]
