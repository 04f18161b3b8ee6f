"""The trained models as plain objects, their settings, and their files."""
