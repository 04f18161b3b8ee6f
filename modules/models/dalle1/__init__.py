"""DALL-E 1 (Ramesh et al. 2102.12092), Lightning-free: the dVAE, the token Transformer, re-ranking by a CLIP."""
