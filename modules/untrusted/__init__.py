"""What a stranger may have written: read within bounds, checked against an allow-list before anything is made of it."""
