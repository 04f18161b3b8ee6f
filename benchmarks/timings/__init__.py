"""Timings beside other people's code, in turns within one run."""
