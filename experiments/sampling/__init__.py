"""Drawing pictures for captions."""
