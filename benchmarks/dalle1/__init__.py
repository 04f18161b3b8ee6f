"""Timings of DALL-E 1."""
