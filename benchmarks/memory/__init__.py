"""What things take of memory."""
