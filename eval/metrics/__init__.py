"""Metrics: features or scores in, numbers with intervals out."""
