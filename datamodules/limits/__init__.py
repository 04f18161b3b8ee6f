"""Data for the limits that the paper shows: scenes of many objects (figure 17) and signs with words (figure 16)."""
