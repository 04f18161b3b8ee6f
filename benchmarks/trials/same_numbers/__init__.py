"""Does this code compute what an older version did? The same commands by both, compared bit for bit."""
