"""The stages of unCLIP, the system that they form, their networks, and the mathematics of diffusion."""
