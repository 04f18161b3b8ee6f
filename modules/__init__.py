"""What is trained, and how it is put together: the stages of unCLIP, their networks and the diffusion mathematics."""
