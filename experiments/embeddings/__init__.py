"""Commands about CLIP embeddings: computing, probing and ranking them."""
