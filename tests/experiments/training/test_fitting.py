"""Parts of a config that do not go together, and checkpoints of other networks: one line, and nothing is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import main
from experiments.training.fitting import check_checkpoint, constructing
from experiments.training.stage_folder import from_the_run
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
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "wide.ckpt").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut.ckpt' cannot be read"):
        check_checkpoint(tmp_path / "cut.ckpt", narrow)


def test_what_is_exported_is_on_the_disk_when_fit_ends(stage, tmp_path, monkeypatch):
    """The runner's stage.json, which says so, must not outlive the weights in a power cut."""
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(["fit", *stage("linear_prior")]) == 0
    export = tmp_path / "run" / "linear_prior" / "export"
    for path in (export / "model.safetensors", export / "config.yaml", export, export.parent):
        assert (path.stat().st_ino, path.stat().st_size) in synced, path


def test_errors_in_the_code_stay_errors():
    with pytest.raises(ValueError, match="negative") as error, constructing():
        raise ValueError("negative")
    assert not isinstance(error.value, InputError)


def test_what_a_part_of_the_trainer_refuses_is_one_line(stage, refused):
    profiler = [
        "--trainer.profiler=lightning.pytorch.profilers.PyTorchProfiler",
        "--trainer.profiler.init_args.sort_by_key=speed",
    ]
    assert "trainer: PyTorchProfiler: Found sort_by_key: speed" in refused("fit", *stage("linear_prior"), *profiler)
    checkpoint = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-4"]
    assert "trainer: ModelCheckpoint: Invalid value" in refused("fit", *stage("linear_prior"), *checkpoint)


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


UNET = {"channels": 8, "channel_multipliers": [1, 2], "depth": 1, "image_size": 16, "patch_size": 2}
ATTENTION = {**UNET, "head_channels": 8, "attention_resolutions": [4]}
NETWORK = "model.init_args.network.init_args"

REFUSED = {
    "another context, of a prior": (
        ("diffusion_prior", {"context_length": 77}, {}, {}),
        f"{NETWORK}.context_length is 77, the captions of the data's embeddings have 20 tokens: set it to 20, or nam",
    ),
    "another context, of the AR prior": (
        ("ar_prior", {"context_length": 19}, {}, {}),
        f"{NETWORK}.context_length is 19, the captions of the data's embeddings have 20 tokens: set it to 20",
    ),
    "another context, of a decoder": (
        ("decoder", {"context_length": 77}, {}, {}),
        f"{NETWORK}.context_length is 77, the captions of the data's embeddings have 20 tokens: set it to 20",
    ),
    "too small a vocabulary, of a prior": (
        ("diffusion_prior", {"vocab_size": 12}, {}, {}),
        f"{NETWORK}.vocab_size is 12, the data's tokens go up to 29: set it to the size of the tokeniser's vocabulary",
    ),
    "too small a vocabulary, by one": (
        ("decoder", {"vocab_size": 29}, {}, {}),
        f"{NETWORK}.vocab_size is 29, the data's tokens go up to 29: set it",
    ),
    "levels that do not divide the side": (
        ("decoder", {"unet": {**ATTENTION, "channel_multipliers": [1, 1, 1, 1, 1]}}, {}, {}),
        "data.init_args.image_size is 16; this U-Net takes multiples of 32 (patch_size x 2 for every "
        f"channel_multiplier but one): take 32, or fewer {NETWORK}.unet.channel_multipliers",
    ),
    "an odd number of channels": (
        ("decoder", {"unet": {**ATTENTION, "channels": 9}}, {}, {}),
        "model: a U-Net's channels and a prior's width must be even (sines and cosines of the timestep), got 9",
    ),
    "an odd width": (
        ("diffusion_prior", {"width": 9, "heads": 3}, {}, {}),
        "model: a U-Net's channels and a prior's width must be even (sines and cosines of the timestep), got 9",
    ),
    "no heads": (("diffusion_prior", {"heads": 0}, {}, {}), "model: heads (0) must divide the width (16)"),
    "no head channels": (
        ("decoder", {"unet": {**ATTENTION, "head_channels": 0}}, {}, {}),
        "model: unet.head_channels is 0: give 1 or more",
    ),
    "no levels": (
        ("decoder", {"unet": {**ATTENTION, "channel_multipliers": []}}, {}, {}),
        "model: unet.channel_multipliers is empty: give one for each resolution, such as [1, 2, 3, 4]",
    ),
    "a crop of more than the image": (
        ("upsampler", {}, {"crop": 3.0}, {}),
        "model.init_args.crop is 3: it is the training window's share of the image's side, above 0 and at most 1; ",
    ),
    "no crop": (("upsampler", {}, {"crop": 0.0}, {}), "model.init_args.crop is 0: it is the training window's share"),
    "a crop of odd pixels": (
        ("upsampler", {"factor": 4}, {"crop": 0.1}, {"image_size": 128}),
        "model.init_args.crop is 0.1, a window of 13 of the images' 128 pixels; it must be a multiple of 4 (factor 4, "
        "the U-Net's 4): take 0.09375",
    ),
    "a crop of no pixels": (
        ("upsampler", {}, {"crop": 0.01}, {"image_size": 32}),
        "model.init_args.crop is 0.01, a window of 0 of the images' 32 pixels; it must be a multiple of 4",
    ),
    "an unknown interpolation": (
        ("upsampler", {"interpolation": "magic"}, {}, {}),
        "model: unknown interpolation 'magic'; there are bicubic, bicubic-antialiased, bilinear, area, nearest, "
        "nearest-exact",
    ),
    "a factor that does not divide the side": (
        ("upsampler", {"factor": 3}, {}, {"image_size": 32}),
        f"{NETWORK}.factor is 3, which does not divide data.init_args.image_size, 32: make the latter 36, or take ano",
    ),
    "no factor": (("upsampler", {"factor": 0}, {}, {}), "model: factor is 0: the output's side must be 1 times the"),
    "a learned sigma that the upsampler has not": (
        ("upsampler", {}, {"objective": {"learned_sigma": True}}, {"image_size": 32}),
        "model.network.learned_sigma is False, model.objective.learned_sigma is True: make them equal",
    ),
    "a learned sigma that a prior has not": (
        ("diffusion_prior", {}, {"objective": {"parameterization": "x0", "learned_sigma": True}}, {}),
        "model.objective.learned_sigma is true, a DiffusionPriorNetwork has no variance: set it to false",
    ),
    "a variance that is not learned": (
        ("decoder", {}, {"sampler": {"name": "ddpm", "variance": "learned"}}, {}),
        "model.init_args.sampler.variance is learned, model.init_args.objective.learned_sigma is false: set that to",
    ),
    "more than all captions dropped": (
        ("diffusion_prior", {}, {"drop_text": 2.0}, {}),
        "model.init_args.drop_text is 2: it is a share, from 0 to 1",
    ),
    "fewer than no captions dropped": (
        ("ar_prior", {}, {"drop_text": -0.1}, {}),
        "model.init_args.drop_text is -0.1: it is a share, from 0 to 1",
    ),
    "more than all embeddings dropped": (
        ("decoder", {}, {"drop_embedding": 1.5}, {}),
        "model.init_args.drop_embedding is 1.5: it is a share, from 0 to 1",
    ),
    "more than all conditions corrupted": (
        ("upsampler", {}, {"corruption_share": 50.0}, {"image_size": 32}),
        "model.init_args.corruption_share is 50: it is a share, from 0 to 1",
    ),
    "a decay of more than the run": (
        ("linear_prior", {}, {"training": {"decay_share": 1.1}}, {}),
        "model.init_args.training.decay_share is 1.1: it is a share, from 0 to 1",
    ),
    "more steps than there are": (
        ("diffusion_prior", {}, {"sampler": {"steps": 2000}}, {}),
        "model.init_args.sampler: cannot take 2000 steps of a schedule of 1000 (steps 2000, spacing adm, "
        "objective.num_steps 1000): ask for fewer steps, or for another spacing",
    ),
    "no statistics": (
        ("diffusion_prior", {}, {"statistics_samples": 0}, {}),
        "model.init_args.statistics_samples is 0: the sampler analytic_dpm needs 1 or more",
    ),
    "nothing above the percentile": (
        ("ar_prior", {}, {"percentile": 100.0}, {}),
        "model.init_args.percentile must be a number of 0 or more, below 100, found 100.0",
    ),
    "attention at a side that never comes": (
        ("decoder", {"unet": {**ATTENTION, "attention_resolutions": [4, 7]}}, {}, {}),
        f"{NETWORK}.unet.attention_resolutions has 7, but the network's feature maps have sides of 8, 4 (image_size / ",
    ),
    "heads of another width": (
        ("decoder", {"unet": {**ATTENTION, "head_channels": 12}}, {}, {}),
        f"{NETWORK}.unet.head_channels is 12; it does not divide the 16 channels of an attention layer: its heads "
        "would have 16: take 8, or other channels",
    ),
    "pictures of one side for a decoder of another": (
        ("decoder", {}, {}, {"image_size": 32}),
        f"{NETWORK}.unet.image_size is 16, data.init_args.image_size is 32: make them equal, because the ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_training_would_stumble_over_or_be_of_no_use_with(stage, refused, case):
    (name, network, others, data), message = REFUSED[case]
    words = stage(name, network, **others)
    words += [f"--data.init_args.{key}={value}" for key, value in data.items()]
    assert refused("fit", *words).startswith(message)


def test_a_decoder_wants_pictures(stage, refused, embeddings):
    data = {"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": {"folder": str(embeddings)}}
    words = stage("decoder")
    config = yaml.safe_load(Path(words[1]).read_text())
    Path(words[1]).write_text(yaml.safe_dump({**config, "data": data}))
    line = refused("fit", *words)
    assert line.startswith(
        "data.class_path: EmbeddingsDataModule holds embeddings alone, and Decoder is trained on pic"
    )


@pytest.mark.parametrize(
    ("name", "network", "others", "data"),
    [
        (
            "diffusion_prior",
            {"vocab_size": 30},
            {"drop_text": 0.99, "objective": {"parameterization": "x0", "num_steps": 4}},
            {},
        ),
        ("ar_prior", {}, {"percentile": 0.0, "drop_text": 0.0}, {}),
        ("decoder", {"unet": {**ATTENTION, "head_channels": 64}}, {}, {}),  # one head of a layer that is narrower
        ("upsampler", {"interpolation": "nearest"}, {"crop": 1.0}, {"image_size": 32}),
        ("upsampler", {"factor": 3}, {"crop": 0.5}, {"image_size": 24}),
    ],
)
def test_what_is_at_the_edge_is_trained(stage, name, network, others, data):
    """And samples are drawn in validation."""
    assert main(["fit", *stage(name, network, **others), *(f"--data.init_args.{k}={v}" for k, v in data.items())]) == 0


def test_a_run_goes_on_with_what_it_was_trained_with(stage, refused, monkeypatch):
    """What a new run is refused for, an old one may hold."""
    words = stage("diffusion_prior", drop_text=1.5)
    refused("fit", *words)
    with monkeypatch.context() as older:
        older.setattr("experiments.training.lightning_cli.check_settings", lambda *_: None)
        assert main(["fit", *words]) == 0
    assert main(["fit", *words, "--ckpt_path", "last"]) == 0
    assert main(["validate", *words, "--ckpt_path", "last"]) == 0


def test_the_largest_token_is_found_wherever_it_is(monkeypatch):
    """In the last row of the last split; of many rows, some of all parts are read."""
    from experiments.training import config_checks

    class Rows:
        def __init__(self, tokens):
            self.tokens = tokens

    tokens = {"train": torch.zeros(100, 4, dtype=torch.int64).numpy(), "val": torch.zeros(7, 4).long().numpy()}
    tokens["val"][6, 3] = 41
    known = {"context": 4, "dim": 16, "features": None, "normalised": True}
    info = type("Info", (), {"sizes": {"train": 100, "val": 7}, **known})
    folder = type("Folder", (), {"info": info, "rows": lambda _, split: Rows(tokens[split])})()
    monkeypatch.setattr(config_checks, "open_embeddings", lambda path: folder)
    data = type("Data", (), {"embeddings": "somewhere"})()
    assert config_checks.captions_of(data, ["train", "val"]) == (4, 41, 16, None, False)
    assert config_checks.captions_of(data, ["train"]).largest == 0  # what is not read may be as it likes
    tokens["train"][50:] = 43
    monkeypatch.setattr(config_checks, "TOKENS", 16)  # 4 rows of 100
    assert config_checks.captions_of(data, ["train", "val"]).largest == 43


def test_a_word_that_is_also_the_runs_name_is_no_path():
    """A run in the folder `train` has `train_split: train`; moved elsewhere, it is the same run."""
    here, there = (
        {
            "trainer": {"default_root_dir": f"{run}/clip"},
            "data": {"train_split": "train", "folder": f"{run}/embeddings"},
        }
        for run in ("train", "moved/away")
    )
    data = {"train_split": "train", "folder": "RUN/embeddings"}
    assert from_the_run(here)["data"] == from_the_run(there)["data"] == data
    whole = {"trainer": {"default_root_dir": "runs/a/clip"}, "data": {"folder": "runs/a", "other": ["runs/ab"]}}
    assert from_the_run(whole)["data"] == {"folder": "RUN", "other": ["runs/ab"]}
