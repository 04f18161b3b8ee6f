"""What a training costs before it is run: memory, FLOPs, parameters."""
