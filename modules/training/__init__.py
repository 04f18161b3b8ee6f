"""The code that the LightningModules share."""
