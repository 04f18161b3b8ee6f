"""Everything that a person runs: the command line, the suites and their YAML."""
