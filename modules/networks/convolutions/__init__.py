"""3 x 3 convolutions of the U-Nets: the layer, and a way to compute it that is faster on a CPU."""
