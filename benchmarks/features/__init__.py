"""Speed of looking at pictures."""
