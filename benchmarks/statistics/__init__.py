"""Simulations of the statistics that the evaluation relies on."""
