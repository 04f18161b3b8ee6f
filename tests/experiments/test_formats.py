"""The same tiny experiment trains from every format of data, by way of the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.formats import FORMATS, samples
from datamodules.picture_data import PictureDataModule
from datamodules.scenes import VOCABULARY
from experiments.cli import main
from experiments.data import load_data

COUNT = 24


@pytest.fixture(scope="module")
def pairs():
    return samples(COUNT, 32)


def config(path, root, model, data):
    trainer = {"default_root_dir": str(root), "max_steps": 2, "val_check_interval": 2, "accelerator": "cpu"}
    path.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer, "model": model, "data": data}))
    return str(path)


def stage(tiny, name, **changes):
    path, network_path, network, arguments = tiny.STAGES[name]
    inner = {"class_path": network_path, "init_args": network}
    if name == "decoder":
        arguments = {**arguments, "objective": {**arguments["objective"], "learned_sigma": False}}
    return {"class_path": path, "init_args": {"network": inner, **arguments, **changes}}


@pytest.mark.parametrize("name", FORMATS)
def test_clip_embeddings_prior_and_decoder_train_from_it(name, pairs, tiny, tmp_path, capsys):
    format = FORMATS[name]
    format.write(tmp_path / "data", pairs)
    splits = {"val_share": 0.2, "test_share": 0.1}
    common = {"image_size": 16, "batch_size": 4, "splits": splits, "captions": {"draw": False}}
    plain = format.section(tmp_path / "data", **common)
    drawn = {**common, "captions": {"draw": True}, "picture": {"crop": "random", "flip": True}, "num_workers": 1}
    clip = {"class_path": "modules.clip.CLIPTrainer", "init_args": tiny.CLIP}
    words = config(tmp_path / "clip.yaml", tmp_path / "clip", clip, format.section(tmp_path / "data", **drawn))
    assert main(["fit", "--config", words]) == 0
    vocabulary = json.loads((tmp_path / "clip" / "export" / "vocabulary.json").read_text())["words"]
    assert set(vocabulary) <= set(VOCABULARY)
    assert "circle" in vocabulary
    settings = config(tmp_path / "plain.yaml", tmp_path / "none", clip, plain)
    out = str(tmp_path / "embeddings")
    assert main(["embed", "--config", settings, "--clip", str(tmp_path / "clip" / "export"), "--out", out]) == 0
    attached = format.section(tmp_path / "data", **common, embeddings=out)
    for part in ("diffusion_prior", "decoder"):
        path = config(tmp_path / f"{part}.yaml", tmp_path / part, stage(tiny, part), attached)
        assert main(["fit", "--config", path]) == 0
        assert (tmp_path / part / "export" / "model.safetensors").is_file()
    assert "skipped" not in capsys.readouterr().err


BLOCKS = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "data.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_pages_examples_can_be_copied(block, tmp_path):
    if not block.startswith("data:"):  # Further arguments of any of them.
        block = f"{BLOCKS[0].rstrip()}\n{block}"
    (tmp_path / "data.yaml").write_text(block)
    data, section = load_data(tmp_path / "data.yaml", PictureDataModule)
    assert data.image_size == section["init_args"]["image_size"] == 64
    assert len(BLOCKS) == 5
