"""`unclip new`: what it sees and chooses, and suites that run as they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from experiments.console.configs import read_config
from experiments.own_data.choices import Pretrained, choose, parsed_clip
from experiments.own_data.survey import Survey, look
from experiments.suites.suite import load_suite
from modules.errors import InputError


def survey(train=5000, **more) -> Survey:
    given = {
        "section": {"class_path": "datamodules.image_folder.ImageFolderDataModule", "init_args": {"train": "x"}},
        "sizes": {"train": train, "val": 256, "test": 256},
        "side": 512,
        "smallest": 300,
        "words": 900,
        "unread": 0.01,
        "longest": 11,
        "captions": ["a"],
        "several": False,
        "faults": 0,
        "own_splits": (),
    }
    return Survey(**{**given, **more})


def test_a_look_counts_what_is_there(own_pictures):
    found = look(str(own_pictures))
    assert found.sizes == {"train": 96, "val": 12, "test": 12}
    assert (found.side, found.smallest, found.several, found.own_splits) == (128, 128, False, ())
    assert found.section["init_args"] == {
        "train": str(own_pictures.resolve()),
        "captions_from": "auto",
        "splits": {"val_size": 12, "test_size": 12},
        "faults": {"max_skipped": 5},
    }
    captions = [path.read_text() for path in own_pictures.glob("*.txt")]
    assert found.longest == max(len(caption.split()) for caption in captions)
    assert found.faults == 1  # It is one of training's: 007.png.


def test_too_few_pairs_are_refused(own_pictures, tmp_path):
    for path in sorted(own_pictures.iterdir())[:40]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="20 pairs are too few to train on; 100 are the least"):
        look(str(tmp_path))


def test_words_of_their_own_while_they_serve():
    words = choose(survey()).words
    assert (words.tokenizer, words.vocab_size, words.context_length) == ("words", 960, 12)
    for hard in ({"words": 5000}, {"unread": 0.2}, {"longest": 60}):
        words = choose(survey(**hard)).words
        assert (words.tokenizer, words.vocab_size, words.context_length) == ("bpe", 49_408, 77), hard


def test_sizes_fit_the_pictures():
    sizes = choose(survey()).sizes
    assert (sizes.decoder, sizes.final, sizes.factor, sizes.clip_batch, sizes.width) == (64, 128, 2, 128, 128)
    small = choose(survey(side=40, smallest=30, train=200)).sizes
    assert (small.decoder, small.final, small.factor, small.clip_batch, small.width) == (32, 32, 1, 32, 64)
    assert choose(survey(), size=32).sizes.final == 128
    with pytest.raises(InputError, match="--size 128, but half of the pictures have 100 pixels or fewer"):
        choose(survey(side=100), size=128)


def test_steps_are_passes_within_bounds():
    few, some, many = (choose(survey(train=train)).steps for train in (100, 6200, 10**6))
    assert (few["decoder"], some["decoder"], many["decoder"]) == (1500, 4600, 6000)
    assert (few["clip"], some["clip"], many["clip"]) == (600, 1600, 3000)
    assert all(isinstance(steps, int) for steps in some.values())
    assert choose(survey(train=100)).dropout == 0.1 and choose(survey(train=10**6)).dropout == 0.0
    assert not choose(survey(train=500)).whiten and choose(survey(train=2000)).whiten


def test_a_pretrained_clip_gives_tokens_and_width():
    clip = Pretrained("ViT-B-32", "w.pt", 512, 77, 49_408)
    chosen = choose(survey(), pretrained=clip)
    assert (chosen.sizes.width, chosen.words.vocab_size, chosen.words.context_length) == (512, 49_408, 77)


def test_the_clip_is_a_model_and_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").touch()
    assert parsed_clip("ViT-B-32:w.pt") == ("ViT-B-32", str(tmp_path / "w.pt"))
    assert parsed_clip("ViT-B-32:openai") == ("ViT-B-32", "openai")
    assert parsed_clip(str(tmp_path)) == (str(tmp_path), None)
    assert parsed_clip("shipped:shapes") == ("shipped:shapes", None)
    with pytest.raises(InputError, match="'shipped:none' come with the package; there are shipped:drawings"):
        parsed_clip("shipped:none")
    with pytest.raises(InputError, match="write MODEL:WEIGHTS, as in ViT-B-32:FILE"):
        parsed_clip("ViT-B-32")


@pytest.fixture
def suite(own_pictures, tmp_path, monkeypatch, capsys):
    """A suite, written by the command; and what it said."""
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_suite", "--data", str(own_pictures)]) == 0
    return Path("my_suite/suite.yaml"), capsys.readouterr().out


def test_the_suite_is_commented_and_whole(suite, capsys):
    path, said = suite
    stages = load_suite(path).stages
    assert {"clip", "embeddings", "decoder", "upsampler", "ar_prior", "eval_clip", "evaluate", "report"} <= set(stages)
    assert "120 pairs: 96 for train, 12 for val, 12 for test" in said and "unclip reproduce my_suite/suite.yaml" in said
    for what in ("words", "pictures", "steps", "dropout"):
        (reason,) = re.findall(rf"^  {what}: (.*)$", said, re.MULTILINE)
        assert f"#   {what}: {reason}." in path.read_text()
    for name, stage in stages.items():
        if stage.is_fit:
            config = read_config(path.with_name(f"{name}.yaml"))
            assert config["trainer"]["default_root_dir"] == f"${{oc.env:UNCLIP_RUN,runs/my_suite}}/{name}"
            assert config["trainer"]["max_steps"] >= 400
    assert main(["new", "my_suite", "--data", "x"]) == 2
    assert "my_suite/suite.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["clip", "eval_clip", "decoder", "glide", "upsampler", "ar_prior", "diffusion_prior"])
def test_every_stage_can_be_built(suite, stage, tmp_path):
    from experiments.training.config_checks import check_data, check_settings
    from experiments.training.lightning_cli import CLI

    path, _ = suite
    command = CLI("fit", ["--config", str(path.with_name(f"{stage}.yaml")), f"--trainer.default_root_dir={tmp_path}/r"])
    check_settings(command.model, command.datamodule)
    if getattr(command.datamodule, "embeddings", None):
        command.datamodule.embeddings = None  # They are made by an earlier stage.
        check_data(command.model, command.datamodule)


def test_a_change_of_the_quickstart_does_not_change_it(suite):
    """Judge, decoders, upsampler and prior have their own settings: the quickstart's are for minutes on shapes."""
    path, _ = suite
    judge = read_config(path.with_name("eval_clip.yaml"))["model"]["init_args"]
    assert (judge["vision_cfg"]["width"], judge["optimizer"]["class_path"]) == (32, "torch.optim.AdamW")
    for name, steps in (("decoder", 4), ("glide", 6)):
        model = read_config(path.with_name(f"{name}.yaml"))["model"]["init_args"]
        assert (model["objective"]["timesteps"], model["sampler"]["steps"]) == ("uniform", steps)
    upsampler = read_config(path.with_name("upsampler.yaml"))["model"]["init_args"]
    assert (upsampler["network"]["init_args"]["unet"]["channels"], upsampler["optimizer"]["init_args"]["lr"]) == (
        32,
        2e-3,
    )
    assert upsampler["objective"]["huber_scale"] == 0.1
    sampler = read_config(path.with_name("diffusion_prior.yaml"))["model"]["init_args"]["sampler"]
    assert (sampler["steps"], sampler["spacing"], sampler["guidance_scale"]) == (64, "adm", 1.0)


def shrink(folder: Path) -> None:
    """Two steps, small batches, few samples."""
    for path in folder.glob("*.yaml"):
        text = path.read_text()
        if path.name == "suite.yaml":
            text = text.replace(
                "--reference {run}/samples/reference --clip", "--bootstrap 5 --reference {run}/samples/reference --clip"
            )
        else:
            text = re.sub(r"max_steps: \d+", "max_steps: 2", text)
            text = re.sub(r"val_check_interval: \d+", "val_check_interval: 2\n  accelerator: cpu", text)
            text = re.sub(r"batch_size: \d+", "batch_size: 8", text)
        if path.name == "diffusion_prior.yaml":
            text = text.replace("  init_args:\n    network:", "  init_args:\n    statistics_samples: 8\n    network:")
        path.write_text(text)


@pytest.mark.timeout(900)
def test_one_command_does_the_rest(own_pictures, quick_stages, tmp_path, monkeypatch, capsys):
    """The tutorial in small: from a folder of pictures to a report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("UNCLIP_RUN", raising=False)
    assert main(["new", "mine", "--data", str(own_pictures), "--size", "32"]) == 0
    shrink(Path("mine"))
    assert main(["reproduce", "mine/suite.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("open runs/mine/report.html")
    rows = json.loads(Path("runs/mine/results.json").read_text())["rows"]
    assert [row["condition"] for row in rows] == [
        *("caption_only", "glide", "text_embedding", "linear_prior", "ar_prior", "diffusion_prior"),
        *("image_embedding_alone", "image_embedding", "real"),
    ]
    assert all(row["n"] == 11 and row["frechet"]["value"] >= 0 for row in rows)
    assert yaml.safe_load(Path("mine/data.yaml").read_text())["data"]["init_args"]["splits"] == {
        "val_size": 12,
        "test_size": 12,
    }
    log = Path("runs/mine/decoder/log.txt").read_text()
    assert re.search(r"decoder: step 2 of 2: train/loss [\d.]+, val/loss [\d.]+", log)
    assert "export: runs/mine/decoder/export" in log


@pytest.mark.parametrize("name", ["birds #2", "a: b", "my{suite}", "a$b"])
def test_names_that_yaml_reads_otherwise_are_refused(own_pictures, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    for words in (["new", name], ["new", "suite", "--run", name]):
        assert main([*words, "--data", str(own_pictures)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"{name}: the suite's YAMLs name this folder" in said
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_space_is_quoted_where_commands_name_it(own_pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my suite", "--data", str(own_pictures)]) == 0
    assert "unclip reproduce 'my suite/suite.yaml'" in capsys.readouterr().out
    stages = load_suite(Path("my suite/suite.yaml")).stages
    assert stages["clip"].words(Path("r"))[-1] == "my suite/clip.yaml"
    assert read_config(Path("my suite/clip.yaml"))["trainer"]["default_root_dir"].endswith("runs/my suite}/clip")
    (tmp_path / "file").touch()
    assert main(["new", "file", "--data", str(own_pictures)]) == 2
    assert "file is a file: name a folder" in capsys.readouterr().err
