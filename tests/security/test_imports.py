"""What jsonargparse parses imports our own classes, Lightning's and those that the person names; nothing else."""

from __future__ import annotations

import sys

import pytest
import yaml
from lightning.pytorch import LightningDataModule
from torch import nn

from experiments.cli import main
from experiments.console.import_wall import trust
from experiments.console.parser import Parser, nearest_argument
from experiments.training.config import Settings
from modules.errors import InputError

MODULE = """
import pathlib
pathlib.Path(__file__).with_name("IMPORTED").touch()
from torch import nn
from lightning.pytorch import LightningDataModule

class Net(nn.Module):
    pass

class Data(LightningDataModule):
    pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder, on Python's path, with modules that say if they were imported."""
    for name in ("strangers", "persons"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("strangers", "persons"):
        sys.modules.pop(name, None)


def parse(path, kind=nn.Module):
    parser = Parser(prog="x")
    parser.add_subclass_arguments(kind, "part", required=True)
    return parser.parse_object({"part": {"class_path": path}})


@pytest.mark.parametrize(
    "path",
    [
        "strangers.Net",
        "subprocess.Popen",
        "os.system",
        "antigravity.geohash",
        "builtins.eval",
        "modules.decoder.torch",
        "datamodules.pictures.tables.os",
        "torch.hub.load",
        "torch.load",
        "jsonargparse.CLI",
        "webbrowser.open",
        "logging.FileHandler",
        "numpy.load",
        "PIL.Image.open",
    ],
)
def test_a_class_path_that_nobody_named_imports_nothing(place, path):
    with pytest.raises(InputError, match=r"not allowed|Unexpected import path|no class"):
        parse(path)
    assert not (place / "strangers" / "IMPORTED").exists() and "antigravity" not in sys.modules


def test_a_person_may_name_a_class_of_their_own(place):
    trust({"a": [{"class_path": "persons.Net"}]})
    assert parse("persons.Net").part.class_path == "persons.Net"
    assert (place / "persons" / "IMPORTED").exists()


def test_no_person_names_modules_that_run_commands(place):
    trust({"class_path": "subprocess.Popen", "x": "os.system", "y": "jsonargparse.CLI", "z": "builtins.eval"})
    for path in ("subprocess.Popen", "os.system", "jsonargparse.CLI", "builtins.eval"):
        with pytest.raises(InputError, match="not allowed"):
            parse(path)


@pytest.mark.parametrize(
    "named", ["torch.optim.AdamW", "lightning.pytorch.callbacks.Timer", "torch.utils.data.Dataset"]
)
def test_a_class_of_torch_opens_no_more_of_torch(place, named):
    trust({"optimizer": {"class_path": named}})
    for path in ("torch.load", "torch.hub.load", "torch.utils.cpp_extension.load", "modules.decoder.torch"):
        with pytest.raises(InputError, match=r"not allowed|Unexpected import path|no class"):
            parse(path)


def test_our_own_need_no_word():
    assert parse("torch.nn.Identity").part.class_path == "torch.nn.Identity"
    with pytest.raises(InputError, match="arguments are required: embedding_dim"):  # It was found.
        parse("modules.networks.priors.linear_prior.LinearPriorNetwork")


CONFIG = {
    "trainer": {"default_root_dir": "run", "max_steps": 1},
    "model": {"class_path": "modules.linear_prior.LinearPrior", "init_args": {}},
    "data": {"class_path": "persons.Data"},
}
NETWORK = {"class_path": "modules.networks.priors.linear_prior.LinearPriorNetwork", "init_args": {"embedding_dim": 4}}
CONFIG["model"]["init_args"]["network"] = NETWORK


def test_a_run_that_is_resumed_imports_nothing_that_its_config_names(place, capsys):
    """The run's config.yaml is completed with today's defaults, by the parser, before it is compared."""
    (place / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    (place / "run" / "checkpoints").mkdir(parents=True)
    (place / "run" / "checkpoints" / "last.ckpt").write_bytes(b"x")
    theirs = {**CONFIG, "data": {"class_path": "strangers.Data"}, "trainer": {"callbacks": ["strangers.Net"]}}
    (place / "run" / "config.yaml").write_text(yaml.safe_dump(theirs))
    read = Settings("fit", ["--config", "mine.yaml"])
    assert (place / "persons" / "IMPORTED").exists()  # Their own data module, which the YAML names.
    assert read.completed(theirs) == theirs
    assert main(["fit", "--config", "mine.yaml"]) == 2
    assert "holds a run of another config" in capsys.readouterr().err
    assert not (place / "strangers" / "IMPORTED").exists()


def test_words_of_the_command_line_are_the_persons(place):
    Settings("fit", ["--config", written(place), "--data", "persons.Data"])
    assert (place / "persons" / "IMPORTED").exists() and issubclass(sys.modules["persons"].Data, LightningDataModule)


def written(place):
    config = {**CONFIG, "data": {"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": {}}}
    config["data"]["init_args"] = {"folder": "x"}
    (place / "other.yaml").write_text(yaml.safe_dump(config))
    return "other.yaml"


def test_what_a_message_names_is_not_imported(place):
    """The guess at a misspelt argument looks at the class that the parser's message names."""
    said = "Problem with given class_path 'strangers.Net': Option 'widht' is not accepted"
    assert nearest_argument(said) == "" and not (place / "strangers" / "IMPORTED").exists()
    known = "Problem with given class_path 'torch.nn.Linear': Option 'in_featuers' is not accepted"
    assert nearest_argument(known) == "; did you mean 'in_features'?"
