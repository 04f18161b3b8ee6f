"""Captions: writing them for pictures, measuring them, rewording prompts, and DALL-E 3's study of them."""
