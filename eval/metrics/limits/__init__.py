"""Metrics of the limits that the paper shows: many objects (figure 17) and words in pictures (figure 16)."""
