"""Training DALL-E 1 (Ramesh et al. 2102.12092): the LightningModules of its dVAE and of its token Transformer."""
