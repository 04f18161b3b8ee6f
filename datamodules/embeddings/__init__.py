"""CLIP embeddings computed once: the folder, its writer and reader, and a DataModule that trains from it alone.

`EmbeddingsDataModule` is handed on from here: YAMLs know it as `datamodules.embeddings.EmbeddingsDataModule`.
"""

from datamodules.embeddings.module import EmbeddingsDataModule

__all__ = ["EmbeddingsDataModule"]
