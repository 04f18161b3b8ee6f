"""Where the weights of a run lie while it draws, and in which precision."""
