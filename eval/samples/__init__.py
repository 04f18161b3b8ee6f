"""Folders of samples: pictures with a manifest."""
