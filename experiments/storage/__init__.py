"""Files and folders of runs: written whole, locked, and traced to their origin."""
