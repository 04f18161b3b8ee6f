"""Parts of a config that do not go together, and checkpoints of other networks: one line, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import main
from experiments.fitting import check_checkpoint, constructing
from modules.errors import InputError


@pytest.fixture
def stage(tiny, embeddings, tmp_path):
    """Writes the YAML of a tiny stage; `network` and others change its arguments."""

    def write(name: str, network=None, run="run", **changes) -> list[str]:
        path, network_path, arguments, others = tiny.STAGES[name]
        made = {"class_path": network_path, "init_args": {**arguments, **(network or {})}}
        data = {"image_size": 16, "batch_size": 4, **tiny.SIZES, "embeddings": str(embeddings), "cache_dir": None}
        trainer = {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": 1, "limit_test_batches": 1}
        others = {**others, **changes}
        if name == "decoder":  # The class's own default is the paper's.
            others = {**others, "objective": {"learned_sigma": False, **others["objective"]}}
        config = {
            "trainer": {**trainer, "limit_predict_batches": 2, "default_root_dir": str(tmp_path / run / name)},
            "model": {"class_path": path, "init_args": {"network": made, **others}},
            "data": {"class_path": "datamodules.shapes.ShapesDataModule", "init_args": data},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
        return ["--config", str(tmp_path / f"{name}.yaml")]

    return write


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)

    def refused(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(list(words)) == 2
        error = capsys.readouterr().err
        assert error.startswith("unclip: ") and error.count("\n") == 1, error
        assert sorted(tmp_path.rglob("*")) == before
        return error.removeprefix("unclip: ").rstrip("\n")

    return refused


def test_what_constructors_refuse(stage, refused):
    codec = {"embedding_dim": 16, "num_codes": 99, "num_buckets": 8, "num_dot_buckets": 4}
    line = refused("fit", *stage("ar_prior", codec=codec))
    assert line == "num_codes must lie in 1 to 16 (the embedding's width), got 99"
    line = refused("fit", *stage("ar_prior", codec={**codec, "num_codes": 6, "embedding_dim": 32}))
    assert line == "model.network.embedding_dim is 16, model.codec.embedding_dim is 32: make them equal"
    line = refused("fit", *stage("decoder", objective={"learned_sigma": True}))
    assert line == "model.network.learned_sigma is False, model.objective.learned_sigma is True: make them equal"
    line = refused("fit", *stage("decoder", objective={"schedule": "linear", "num_steps": 10}))
    assert line == "model: a linear schedule needs more than 20 steps, got 10"
    unet = {"channels": 8, "channel_multipliers": [1, 2], "depth": 1, "image_size": 32, "attention_resolutions": [8]}
    line = refused("fit", *stage("upsampler", {"unet": unet}))
    assert line == "model: the upsamplers have no attention; attention_resolutions is (8,)"


def test_embeddings_of_another_width(stage, refused):
    for name in ("linear_prior", "diffusion_prior", "decoder"):
        line = refused("fit", *stage(name, {"embedding_dim": 32}))
        assert line.startswith(
            "model.init_args.network.init_args.embedding_dim is 32, the data's embeddings have 16 di"
        )


def test_a_checkpoint_of_another_network(stage, refused, tmp_path):
    words = stage("linear_prior")
    assert main(["fit", *words]) == 0
    last = str(tmp_path / "run" / "linear_prior" / "checkpoints" / "last.ckpt")
    another = refused("fit", *stage("diffusion_prior"), "--ckpt_path", last)
    assert (
        f"checkpoint '{last}' is of another stage or another network than this config's: it lacks network." in another
    )
    assert "it lacks network." in refused("validate", *stage("decoder"), "--ckpt_path", last)
    torch.save({"state_dict": {"w": torch.zeros(2, 3)}}, tmp_path / "wide.ckpt")
    narrow = torch.nn.Module()
    narrow.register_buffer("w", torch.zeros(2, 2))
    with pytest.raises(InputError, match=r": w is \(2, 3\) there and \(2, 2\) here; give"):
        check_checkpoint(tmp_path / "wide.ckpt", narrow)
    with pytest.raises(InputError, match="it holds w, which the config's network has not"):
        check_checkpoint(tmp_path / "wide.ckpt", torch.nn.Module())
    narrow.w = torch.zeros(2, 3)
    check_checkpoint(tmp_path / "wide.ckpt", narrow)


def test_errors_in_the_code_stay_errors():
    with pytest.raises(ValueError, match="negative") as error, constructing():
        raise ValueError("negative")
    assert not isinstance(error.value, InputError)


def test_test_and_predict_want_trained_weights(stage, refused):
    for command in ("test", "predict"):
        line = refused(command, *stage("linear_prior"))
        assert line.startswith(f"--ckpt_path is not set, so {command} would look at untrained weights: give a checkp")


def test_predict_writes_tensors_and_does_not_write_over_them(stage, refused, tmp_path, capsys):
    words = stage("linear_prior")
    assert main(["fit", *words]) == 0
    predict = ["predict", *words, "--ckpt_path", "last"]
    capsys.readouterr()
    assert main(predict) == 0
    run = tmp_path / "run" / "linear_prior"
    assert f"{run / 'predictions'}: predictions for 8 samples" in capsys.readouterr().out
    files = sorted((run / "predictions").iterdir())
    assert [path.name for path in files] == ["batch-00000.pt", "batch-00001.pt"]
    found = [torch.load(path, weights_only=True) for path in files]
    assert torch.cat([part["index"] for part in found]).tolist() == list(range(8))
    assert all(part["z_i"].shape == (4, 16) for part in found)
    assert "predictions is there already: move it away, or say --overwrite" in refused(*predict)
    shutil.rmtree(run / "predictions")
    assert main(predict) == 0
    again = torch.load(Path(files[1]), weights_only=True)
    assert torch.equal(again["z_i"], found[1]["z_i"])


def test_unclip_test_measures_the_test_split(stage, capsys):
    words = stage("linear_prior")
    assert main(["fit", *words]) == 0
    assert main(["test", *words, "--ckpt_path", "last"]) == 0
    out = capsys.readouterr().out
    assert "test/loss" in out and "test/cosine_to_z_i" in out
