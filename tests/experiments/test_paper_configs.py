"""The paper's YAMLs are read by the command line, and the two that differ from the decoder's differ in that alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.lightning_cli import main

PAPER = Path("experiments/paper")


def parsed(capsys, *names):
    words = [word for name in names for word in ("--config", str(PAPER / f"{name}.yaml"))]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    assert stopped.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["clip", "ar_prior", "diffusion_prior", "decoder", "upsampler_256", "upsampler_1024"])
def test_a_yaml_is_accepted(capsys, name):
    config = parsed(capsys, name)
    assert config["trainer"]["default_root_dir"] == f"runs/paper/{name}"
    assert config["trainer"]["precision"] == "bf16-mixed"


def flat(value, path=""):
    if not isinstance(value, dict):
        return {path: value}
    return {key: v for name, part in value.items() for key, v in flat(part, f"{path}.{name}").items()}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "glide",
            {
                ".trainer.default_root_dir": "runs/paper/glide",
                ".model.init_args.network.init_args.embedding_dim": None,
                ".model.init_args.drop_text": 0.2,
            },
        ),
        ("text_decoder", {".trainer.default_root_dir": "runs/paper/text_decoder", ".model.init_args.embedding": "z_t"}),
    ],
)
def test_the_ablations_are_the_decoder_but_for_what_they_are_about(capsys, name, changes):
    decoder, other = flat(parsed(capsys, "decoder")), flat(parsed(capsys, "decoder", name))
    assert decoder.keys() == other.keys()
    assert {key: value for key, value in other.items() if value != decoder[key]} == changes
