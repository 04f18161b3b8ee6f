"""Weights that others have released: how their tensors are named and laid out, and which settings of ours they need."""
