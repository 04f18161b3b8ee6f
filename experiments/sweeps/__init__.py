"""`unclip sweep`: the same captions and noise under many settings."""
