"""`unclip demo`: a run's models on a web page of this machine."""
