"""The networks that look at pictures, and the features that they see."""
