"""Trials: long runs that hold two versions of the code, or a run and its interruption, against each other."""
