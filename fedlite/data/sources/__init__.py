"""One file a data source: where its records come from, and what it takes."""
