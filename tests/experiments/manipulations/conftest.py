"""A run folder with all that the commands look for, of tiny stages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole_run(stored_run: Path, embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stored_run` with a classifier, embeddings and test pictures; not to be written to."""
    import torch

    from datamodules.rendered.scenes import ATTRIBUTES, describe, make_pair, render
    from eval.judges.attributes import AttributeClassifier, export_classifier
    from eval.samples.folder import write_samples

    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(stored_run, run)
    shutil.copytree(embeddings, run / "embeddings")
    torch.manual_seed(0)
    classes = {name: list(values) for name, values in ATTRIBUTES.items()}
    export_classifier(AttributeClassifier(classes, image_size=16, width=4, features=6), run / "classifier" / "export")
    pairs = [make_pair("test", k) for k in range(4)]
    images = torch.stack([torch.from_numpy(render(pair.scene, 32)).permute(2, 0, 1) for pair in pairs])
    records = [
        {
            "caption": pair.caption, "caption_index": k, "sample_index": 0, "condition": "real",
            "mentioned": pair.mentioned, "scene": describe(pair.scene),
        }
        for k, pair in enumerate(pairs)
    ]  # fmt: skip
    write_samples(run / "samples" / "real", images, records)
    return run
