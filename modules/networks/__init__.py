"""The networks: nn.Modules that know tensors, not training."""
