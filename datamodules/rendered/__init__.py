"""The common part of data sets of rendered pictures."""
