"""DALL-E 3's stages (Betker et al. 2023): the captioner, and the decoder that is trained on its captions."""
