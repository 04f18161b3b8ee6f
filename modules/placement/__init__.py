"""Where a run's weights lie while it draws, and in what precision."""
