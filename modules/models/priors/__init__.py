"""Priors as plain models: a loss to train by, and a way to draw image embeddings."""
