"""How good pictures are, by numbers that need no judge."""
