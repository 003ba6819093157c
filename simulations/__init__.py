"""Many sites on one machine: engines, scenarios, comparisons and benchmarks."""
