"""Figures: curves, grids of pictures, and the paper's own."""
