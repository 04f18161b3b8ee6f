"""Edits by words, measured on rendered scenes whose truth is known."""
