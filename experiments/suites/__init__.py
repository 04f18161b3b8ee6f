"""Suites of stages: read, planned, run side by side, or written as scripts."""
