"""An export is data: its config.yaml builds this project's own classes from plain values, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.trials.fuzz import watched
from experiments.cli import main
from modules.errors import InputError
from modules.models.base import Model
from modules.models.exports import build, load_model
from modules.pipeline import UnCLIP
from modules.untrusted.allowed import TRUST, class_named, made

COMMAND = {"class_path": "subprocess.Popen", "init_args": {"args": "touch PWNED", "shell": True}}
FILE = {"class_path": "logging.FileHandler", "init_args": {"filename": "PWNED"}}


def stub(value):
    return {"class_path": "torch.ao.quantization.DeQuantStub", "init_args": {"qconfig": value}}


NETWORKS = {
    "a command in a module of PyTorch": stub(COMMAND),
    "a file in a module of PyTorch": stub(FILE),
    "a plain module of PyTorch": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}},
    "a class that is no module": COMMAND,
    "a module that loads files": {"class_path": "modules.clip.frozen.FrozenCLIP", "init_args": {"name_or_folder": "/"}},
    "a name through one of ours": {"class_path": "modules.networks.decoder.nn.Linear", "init_args": {}},
    "one that another of ours imports": {"class_path": "modules.networks.decoder.UNet", "init_args": {}},
    "another of ours": {"class_path": "modules.networks.priors.linear_prior.LinearPriorNetwork", "init_args": {}},
    "a function": {"class_path": "modules.networks.quadrant_resnet.quadrant_resnet", "init_args": {}},
    "a module that is not imported yet": {"class_path": "antigravity.fly", "init_args": {}},
    "a path with a space": {"class_path": "modules.networks.decoder .DecoderNetwork", "init_args": {}},
    "no path": {"class_path": ["modules.networks.decoder.DecoderNetwork"], "init_args": {}},
    "keyword arguments beside": {
        "class_path": "modules.networks.decoder.DecoderNetwork",
        "init_args": {},
        "dict_kwargs": {"x": COMMAND},
    },
}


@pytest.mark.parametrize("what", NETWORKS)
def test_a_network_that_is_not_ours_is_refused_by_name(config_of, sent, what):
    folder = config_of("decoder", lambda config: config["init_args"].update(network=NETWORKS[what]))
    before = set(sys.modules)
    with watched(sent), pytest.raises(InputError, match=r"decoder.*config\.yaml: network"):
        load_model(folder)
    assert "antigravity" not in set(sys.modules) - before
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("key", ["objective", "sampler", "drop_text", "embedding", "statistics_samples"])
@pytest.mark.parametrize("value", [COMMAND, stub(COMMAND), [FILE]], ids=["command", "stub", "list"])
def test_no_setting_becomes_an_object(config_of, sent, key, value):
    folder = config_of("decoder", lambda config: config["init_args"].update({key: value}))
    with watched(sent):
        try:
            load_model(folder)
        except InputError:
            return
    assert key == "statistics_samples"  # It is the training's and no field of the model: not looked at.


def test_no_argument_of_a_network_becomes_an_object(config_of, sent):
    originals = {}
    for key in ("unet", "vocab_size", "learned_sigma", "text_pooling", "text_std"):
        for value in (COMMAND, [COMMAND], {"channels": COMMAND}):

            def change(config, key=key, value=value):
                valid = config["init_args"]["network"]["init_args"]
                config["init_args"]["network"] = {
                    "class_path": "modules.networks.decoder.DecoderNetwork",
                    "init_args": {**originals.setdefault("decoder", valid), key: value},
                }

            folder = config_of("decoder", change)
            with watched(sent), pytest.raises(InputError, match=f"network.*{key}"):
                load_model(folder)


@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "antigravity.fly", "torch.nn.Linear", "modules.clip.CLIPTrainer", 3]
)
def test_the_models_class_is_ours(config_of, sent, path):
    folder = config_of("decoder", lambda config: config.update(model=path))
    with watched(sent), pytest.raises(InputError, match=r"config\.yaml"):
        load_model(folder)


def test_the_commands_refuse_in_one_line(config_of, sent, capsys):
    config_of("decoder", lambda config: config["init_args"].update(network=stub(COMMAND)))
    words = ["sample", "a red circle", "--run", str(sent), "--out", "out", "--condition", "caption_only"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none of this project's classes" in error
    assert not Path("PWNED").exists() and not Path("out").exists()
    with pytest.raises(InputError, match="none of this project's classes"):
        UnCLIP.from_run(sent).generate(["a red circle"], "caption_only")


def test_a_model_cards_data_are_not_made(sent, capsys):
    for stage, section in (("decoder", COMMAND), ("glide", FILE)):
        (sent / stage / "config.yaml").write_text(
            f"model: {{class_path: modules.decoder.Decoder}}\ndata: {section}\ntrainer: {{}}\n"
        )
    with watched(Path.cwd()):
        assert main(["export", str(sent), "--out", "out", "--stages", "decoder,glide"]) == 0
    capsys.readouterr()
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["out"]


def test_layers_without_end_are_not_built(config_of):
    folder = config_of(
        "diffusion_prior", lambda config: config["init_args"]["network"]["init_args"].update(depth=10**9)
    )
    with pytest.raises(InputError, match="more layers than the file of weights has tensors"):
        load_model(folder)


class Foreign(nn.Module):
    """A user's own network."""

    def __init__(self, width: int, extra: object = None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)


@dataclass(frozen=True, eq=False)
class ForeignModel(Model):
    """A user's own model, whose network is annotated as any module."""

    network: nn.Module


def test_a_users_own_model_takes_its_own_network_and_plain_values():
    spec = {"class_path": f"{__name__}.Foreign", "init_args": {"width": 3, "extra": [1, "a"]}}
    sys.modules.setdefault(__name__, sys.modules[Foreign.__module__])
    assert build(ForeignModel, {"network": spec}).network.linear.weight.shape == (3, 3)
    with pytest.raises(InputError, match="no class is built here"):
        build(ForeignModel, {"network": {**spec, "init_args": {"width": 3, "extra": COMMAND}}})
    with pytest.raises(InputError, match="DeQuantStub is none of"):
        build(ForeignModel, {"network": stub(1)})


def test_a_package_is_imported_only_if_the_user_names_it(tmp_path, monkeypatch):
    (tmp_path / "somebodys.py").write_text("from torch import nn\n\nclass Net(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"set {TRUST}=somebodys"):
        class_named("somebodys.Net", nn.Module)
    assert "somebodys" not in sys.modules
    monkeypatch.setenv(TRUST, "another, somebodys")
    assert class_named("somebodys.Net", nn.Module).__name__ == "Net"
    monkeypatch.delitem(sys.modules, "somebodys")


@pytest.mark.parametrize(
    ("hint", "value", "result"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, "1e-3", 0.001),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[float, float] | None, [1, 2], (1.0, 2.0)),
        (tuple[float, float] | None, None, None),
        (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
        (int | float, 2, 2),
    ],
)
def test_values_are_those_of_the_type(hint, value, result):
    found = made(hint, value, "x", class_named)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True),
        (int, 3.0),
        (int, "3"),
        (bool, 1),
        (str, 1),
        (float, "x"),
        (tuple[int, int], [1]),
        (tuple[int, ...], "12"),
        (dict[str, int], [1]),
        (torch.device, "cpu"),
        (object, {"class_path": "a.B"}),
    ],
)
def test_values_of_other_types_are_refused(hint, value):
    with pytest.raises(InputError, match="x"):
        made(hint, value, "x", class_named)
