"""Commands that measure pictures."""
