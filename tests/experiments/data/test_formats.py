"""The same tiny experiment trains from every format of data, by way of the command line."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from benchmarks.made_up_data.embedding_formats import EMBEDDINGS, write_clip_retrieval
from benchmarks.made_up_data.formats import EMOJI, FORMATS, samples
from datamodules.embeddings.folder import open_embeddings
from datamodules.embeddings.shards import metadata_path, read_captions, write_captions
from datamodules.pictures.module import PictureDataModule
from datamodules.rendered.scenes import VOCABULARY
from experiments.cli import main
from experiments.data.sources import load_data

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


drawings = pytest.param("emoji", marks=pytest.mark.skipif(find_spec("resvg_py") is None, reason="no renderer"))


@pytest.mark.parametrize("name", [*FORMATS, drawings])
def test_clip_embeddings_prior_and_decoder_train_from_it(name, pairs, tiny, tmp_path, capsys):
    format = FORMATS.get(name, EMOJI)
    format.write(tmp_path / "data", pairs)
    common = {"image_size": 16, "batch_size": 4}
    drawn = {**common, "num_workers": 1}
    if name in FORMATS:
        common |= {"splits": {"val_share": 0.2, "test_share": 0.1}, "captions": {"draw": False}}
        drawn |= {**common, "captions": {"draw": True}, "picture": {"crop": "random", "flip": True}}
    plain = format.section(tmp_path / "data", **common)
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


def test_priors_train_from_what_embed_wrote_alone(embeddings, tiny, tmp_path):
    data = {"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": {"folder": str(embeddings)}}
    for name in ("diffusion_prior", "ar_prior"):
        path = config(tmp_path / f"{name}.yaml", tmp_path / name, stage(tiny, name), data)
        assert main(["fit", "--config", path]) == 0
        settings = yaml.safe_load((tmp_path / name / "export" / "config.yaml").read_text())
        assert settings["clip_fingerprint"] == open_embeddings(embeddings).info.clip_fingerprint
        assert (tmp_path / name / "export" / "model.safetensors").is_file()


def test_a_prior_trains_from_clip_retrievals_folder(pairs, clip_folder, tiny, tmp_path, caplog):
    write_clip_retrieval(tmp_path / "data", pairs)
    write_clip_retrieval(tmp_path / "data", pairs[:4], "val")
    path = metadata_path(tmp_path / "data" / "train", 1)
    write_captions(path, [None, *read_captions(path).to_pylist()[1:]])
    words = {
        "class_path": "modules.clip.clip_tokenizer.CLIPTokenizer",
        "init_args": {"name_or_folder": str(clip_folder)},
    }
    data = EMBEDDINGS["clip-retrieval"].section(tmp_path / "data", tokenizer=words, batch_size=8, num_workers=1)
    (tmp_path / "run").mkdir()
    settings = config(tmp_path / "prior.yaml", tmp_path / "run", stage(tiny, "diffusion_prior"), data)
    assert main(["fit", "--config", settings, "--data.init_args.faults.max_skipped", "0.1"]) == 0
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "no caption"
    assert "1 skipped from train (1 for no caption)" in caplog.text


BLOCKS = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[3] / "docs" / "data.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_pages_examples_can_be_copied(block, tmp_path):
    if not block.startswith("data:"):  # Further arguments of any of them.
        block = f"{BLOCKS[0].rstrip()}\n{block}"
    (tmp_path / "data.yaml").write_text(block)
    data, section = load_data(tmp_path / "data.yaml", PictureDataModule)
    assert data.image_size == section["init_args"]["image_size"] == 64
    assert len(BLOCKS) == 5
