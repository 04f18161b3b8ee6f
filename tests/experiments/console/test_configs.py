"""Configs that extend other ones, and those that ship with the package, read from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from experiments.cli import main
from experiments.console.configs import check_config_file, config_text, overlaid, read_config
from experiments.console.parser import Parser
from experiments.console.shipped import SHIPPED, located, located_words
from modules.errors import InputError

BASE = """
seed_everything: 1
trainer: {max_steps: 10, default_root_dir: runs/base}
model:
  class_path: m.Model
  init_args: {width: 3, words: [a, b], network: {class_path: n.One, init_args: {depth: 2}}}
data: {class_path: d.Shapes, init_args: {size: 32, seed: 4}}
"""
OWN = """
extends: ../base/stage.yaml
without: [model.init_args.words, seed_everything]
trainer: {max_steps: 20}
model: {init_args: {network: {class_path: n.One, init_args: {heads: 8}}}}
data: {class_path: d.Emoji, init_args: {size: 64}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"base": BASE, "own": OWN}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.yaml").write_text(text)
    return tmp_path


def test_a_config_says_only_what_differs(folder):
    assert read_config(Path("own/stage.yaml")) == {
        "trainer": {"max_steps": 20, "default_root_dir": "runs/base"},
        "model": {
            "class_path": "m.Model",
            "init_args": {"width": 3, "network": {"class_path": "n.One", "init_args": {"depth": 2, "heads": 8}}},
        },
        "data": {"class_path": "d.Emoji", "init_args": {"size": 64}},
    }
    assert read_config(Path("base/stage.yaml")) == yaml.safe_load(BASE)
    assert yaml.safe_load(config_text(Path("own/stage.yaml"))) == read_config(Path("own/stage.yaml"))
    assert config_text(Path("base/stage.yaml")) == BASE


def test_a_chain_of_configs_is_read_from_its_end(folder):
    Path("own/longer.yaml").write_text("extends: stage.yaml\ntrainer: {max_steps: 30}\n")
    content = read_config(Path("own/longer.yaml"))
    assert content["trainer"] == {"max_steps": 30, "default_root_dir": "runs/base"}
    assert content["data"]["init_args"] == {"size": 64}


def test_merging_changes_neither_config():
    base, own = {"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": None}
    assert overlaid(base, own) == {"a": {"b": 1, "c": [2]}, "d": None}
    assert (base, own) == ({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: ../base/stge.yaml",
            "base/stge.yaml' (config 'own/stage.yaml' extends it) does not exist; did you mean",
        ),
        ("extends: ../base", "own/../base' (config 'own/stage.yaml' extends it) is a folder"),
        ("extends: list.yaml", "own/list.yaml' (config 'own/stage.yaml' extends it) holds no settings"),
        ("extends: stage.yaml", "config 'own/stage.yaml' extends 'own/stage.yaml': a circle"),
        ("extends: back.yaml", "'own/stage.yaml' extends 'own/back.yaml' extends 'own/stage.yaml': a circle"),
        (
            "extends: [a.yaml]",
            "config 'own/stage.yaml': 'extends' is one YAML file's path, relative to this file, not [",
        ),
        (
            "without: [data]",
            "config 'own/stage.yaml': 'extends' is one YAML file's path, relative to this file, not None",
        ),
        (
            "extends: ../base/stage.yaml\nwithout: [model.init_args.wdth]",
            "config 'own/stage.yaml': 'without' names 'model.init_args.wdth', which '../base/stage.yaml' does not set",
        ),
        ("extends: ../base/stage.yaml\nwithout: [data.init_args.size.of]", "'without' names 'data.init_args.size.of'"),
        (
            "extends: ../base/stage.yaml\nwithout: data",
            "'without' is a list of settings, as in [model.init_args.width]",
        ),
    ],
)
def test_what_is_wrong_is_named(folder, text, message):
    Path("own/stage.yaml").write_text(text)
    Path("own/list.yaml").write_text("[1]")
    Path("own/back.yaml").write_text("extends: ../own/stage.yaml")
    with pytest.raises(InputError) as raised:
        check_config_file(Path("own/stage.yaml"))
    assert message in str(raised.value).replace("own/../own", "own")


def test_lightning_reads_a_config_that_extends_another(folder):
    parser = Parser()
    parser.add_argument("--config", action="config")
    assert isinstance(parser, LightningArgumentParser)
    parser.add_argument("--trainer", type=dict)
    parser.add_argument("--share", type=float)
    Path("base/plain.yaml").write_text("trainer: {steps: 1, size: 2}\nshare: 1e-3\n")
    Path("own/plain.yaml").write_text("extends: ../base/plain.yaml\ntrainer: {steps: 5}\n")
    found = parser.parse_args(["--config", "own/plain.yaml"])
    assert (found.trainer, found.share) == ({"steps": 5, "size": 2}, 0.001)


def test_what_ships_is_found_from_anywhere(folder):
    name = "experiments/quickstart/clip.yaml"
    assert located(name) == SHIPPED / name
    assert read_config(Path(name))["data"]["class_path"] == "datamodules.shapes.ShapesDataModule"
    assert read_config(Path("experiments/emoji/clip.yaml"))["model"]["init_args"]["embed_dim"] == 64
    assert located("experiments/none.yaml") == Path("experiments/none.yaml")
    assert located("own/stage.yaml") == Path("own/stage.yaml")
    assert located_words(["unclip", "fit", f"--config={name}", "--config", name, "a=experiments/paper"]) == [
        *("unclip", "fit", f"--config={SHIPPED / name}", "--config", str(SHIPPED / name), "a=experiments/paper")
    ]
    Path("experiments/quickstart").mkdir(parents=True)
    Path(name).write_text("mine: 1")
    assert read_config(Path(name)) == {"mine": 1}


def test_a_missing_config_says_where_was_looked(folder):
    with pytest.raises(InputError, match=r"does not exist; did you mean 'experiments/quickstart/clip\.yaml'\?"):
        check_config_file(Path("experiments/quickstart/clpi.yaml"))
    with pytest.raises(InputError, match="the suite's YAMLs are in experiments/, which is found from any folder"):
        check_config_file(Path("zzz.yaml"))


def test_commands_take_what_ships_from_anywhere(folder, capsys):
    words = ["--config", "experiments/emoji/linear_prior.yaml", "--print_config"]
    with pytest.raises(SystemExit) as left:
        main(["fit", *words])
    assert left.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_steps"] == 600
    assert printed["model"]["init_args"]["network"]["init_args"]["embedding_dim"] == 64
    assert not {"extends", "without"} & set(printed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extend: base.yaml\na: 1", "unknown key 'extend'; did you mean 'extends'"),
        ("extnds: base.yaml", "did you mean 'extends'"),
        ("witout: [a]", "did you mean 'without'"),
        ("extends: null\na: 1", "'extends' is one YAML file's path, relative to this file, not None"),
        ("extends:\n", "not None"),
    ],
)
def test_misspelt_and_empty_extends_are_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(tmp_path / "a.yaml")


def test_a_config_anywhere_extends_one_that_ships(folder):
    own = folder / "own" / "clip.yaml"
    own.write_text("extends: experiments/quickstart/clip.yaml\ntrainer: {max_steps: 3}\n")
    found, base = read_config(own), read_config(SHIPPED / "experiments" / "quickstart" / "clip.yaml")
    assert found == overlaid(base, {"trainer": {"max_steps": 3}})
    (folder / "own" / "experiments" / "quickstart").mkdir(parents=True)
    (folder / "own" / "experiments" / "quickstart" / "clip.yaml").write_text("trainer: {max_steps: 9, devices: 2}\n")
    assert read_config(own) == {"trainer": {"max_steps": 3, "devices": 2}}  # What lies beside it comes first.
    own.write_text("extends: experiments/quickstart/none.yaml\n")
    with pytest.raises(InputError, match=r"none\.yaml.*does not exist"):
        read_config(own)


CLIP = """
model:
  class_path: modules.clip.CLIPTrainer
  init_args:
    embed_dim: 8
    vision_cfg: {layers: 1, width: 16, image_size: 16}
    text_cfg: {context_length: 16, vocab_size: 30, width: 16}
    training: {ema_decay: 0.5, warmup_steps: 3}
"""


def parsed(folder: Path, *words: str) -> dict:
    """The arguments of the model, as `unclip fit` reads a command's words; of {NAME} the file of that name."""
    from experiments.training.config import read

    files = {path.stem: str(path) for path in folder.glob("*.yaml")}
    arguments = read([word.format(**files) for word in words])["model"]["init_args"]
    assert isinstance(arguments, dict)
    return arguments


@pytest.fixture
def several(folder: Path) -> Path:
    data = "data: {class_path: datamodules.shapes.ShapesDataModule, init_args: {image_size: 16}}\n"
    (folder / "clip.yaml").write_text(CLIP + data)
    for name, text in {
        "longer": "text_cfg: {context_length: 20}",
        "wider": "text_cfg: {width: 32}",
        "training": "training: {warmup_steps: 4}",
    }.items():
        (folder / f"{name}.yaml").write_text(f"model: {{init_args: {{{text}}}}}\n")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "{clip}", "--config", "{longer}"], (20, 30, 16)),
        (["--config", "{clip}", "--config={longer}"], (20, 30, 16)),
        (["-c", "{clip}", "-c={longer}"], (20, 30, 16)),
        (["--config", "{clip}", "--config", "{longer}", "--config", "{wider}"], (20, 30, 32)),
        (["--config", "{clip}", "--model.init_args.text_cfg.width=64", "--config", "{longer}"], (20, 30, 64)),
        (["--config", "{clip}", "--config", "{wider}", "--model.init_args.text_cfg.width", "48"], (16, 30, 48)),
        (["--config", "{clip}"], (16, 30, 16)),
    ],
)
def test_a_later_config_leaves_the_rest_of_a_dict(several, words, expected):
    """jsonargparse alone takes a dict of the last file as the whole."""
    found = parsed(several, *words)
    assert tuple(found["text_cfg"][key] for key in ("context_length", "vocab_size", "width")) == expected
    assert found["vision_cfg"] == {"layers": 1, "width": 16, "image_size": 16}


def test_an_option_between_two_configs_stays(several):
    words = ["--config", "{clip}", "--model.init_args.training.ema_decay=0.25", "--config", "{training}"]
    training = parsed(several, *words)["training"]
    assert (training["ema_decay"], training["warmup_steps"]) == (0.25, 4)


def test_a_null_below_a_dict_leaves_the_rest_of_it(several):
    found = parsed(several, "--config", "{clip}", "--model.init_args.vision_cfg.layers=null")
    assert found["vision_cfg"] == {"layers": None, "width": 16, "image_size": 16}
