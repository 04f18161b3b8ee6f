"""`unclip data`: data sets checked, exported and downloaded."""
