"""Timings beside other people's code; `make bench` runs them."""
