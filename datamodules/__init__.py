"""LightningDataModules of image-text pairs, all handing the same batch to every stage."""
