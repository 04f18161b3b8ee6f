"""Files that a stranger may have written: read within bounds, and checked before anything is built from them."""
