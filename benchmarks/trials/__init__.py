"""Trials: kills, faults, long runs, and comparisons with earlier code."""
