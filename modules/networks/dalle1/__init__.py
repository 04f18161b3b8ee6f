"""The networks of DALL-E 1 (Ramesh et al. 2102.12092)."""
