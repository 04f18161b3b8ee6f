"""Folders of samples in, numbers, tables and figures out. Imports nothing else of this project."""
