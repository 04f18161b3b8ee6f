"""Data sets made up for benchmarks and tests, sound and broken ones."""
