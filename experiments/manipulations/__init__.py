"""Commands that change images or probe what an embedding holds: one module each, a figure folder out of each."""
