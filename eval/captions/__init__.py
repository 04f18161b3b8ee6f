"""Captions against the truth, and DALL-E 3's study of what they do to pictures."""
