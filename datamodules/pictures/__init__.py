"""The common part of data sets of picture files."""
