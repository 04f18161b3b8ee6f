"""The networks of priors: what turns a caption into an image embedding."""
