"""Released weights into a run folder: `unclip import`."""
