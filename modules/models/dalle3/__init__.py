"""DALL-E 3's captioner as a model."""
