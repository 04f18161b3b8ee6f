"""What data sets of rendered pictures share."""
