"""A suite for a data set of one's own: `unclip new` looks at the data and writes the YAMLs."""
