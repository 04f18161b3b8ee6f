"""What data sets of picture files share."""
