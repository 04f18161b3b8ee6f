"""Captions that `unclip caption` wrote for a data set, read as a further column of it."""
