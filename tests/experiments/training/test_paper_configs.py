"""The paper's YAMLs are read by the command line, and the two that differ from the decoder's differ in that alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from experiments.costs import plan
from experiments.training.config_checks import check_data, check_settings
from experiments.training.fit import main
from experiments.training.lightning_cli import CLI
from modules.models.configs import Objective

PAPER = Path("experiments/paper")


def parsed(capsys, *names):
    words = [word for name in names for word in ("--config", str(PAPER / f"{name}.yaml"))]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    assert stopped.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name",
    [
        "clip",
        "ar_prior",
        "diffusion_prior",
        "decoder",
        "dvae",
        "token_transformer",
        "upsampler_256",
        "upsampler_1024",
    ],
)
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


OVER = {"glide": ["decoder", "glide"], "text_decoder": ["decoder", "text_decoder"]}
"""YAMLs that change another one."""

PARAMETERS = {
    "clip": 9.87e8,
    "ar_prior": 2.12e9,
    "diffusion_prior": 1.33e9,
    "decoder": 3.56e9,
    "glide": 3.55e9,
    "text_decoder": 3.56e9,
    "dvae": 9.76e7,
    "token_transformer": 1.26e10,
    "upsampler_256": 7.30e8,
    "upsampler_1024": 2.82e8,
}


@pytest.fixture
def meta(monkeypatch):
    """New tensors are on the meta device, but for schedules of noise, whose numbers are looked at."""
    real = Objective.__dict__["noise_schedule"]

    def noise_schedule(objective):
        with torch.device("cpu"):
            return real.__get__(objective, Objective)

    monkeypatch.setattr(Objective, "noise_schedule", property(noise_schedule))
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", [path.stem for path in sorted(PAPER.glob("*.yaml"))])
def test_every_yaml_builds_on_the_meta_device(meta, name):
    """The whole stage, with its average, and no memory for it; as many parameters as the networks of the paper have."""
    words = [word for part in OVER.get(name, [name]) for word in ("--config", str(PAPER / f"{part}.yaml"))]
    config = plan.read(words)
    stage = plan.builder(config["model"])()
    both = list(stage.network.parameters()), list(stage.averaged.parameters())
    for parameters in both:
        assert {p.device.type for p in parameters} == {"meta"}
        assert float(f"{sum(p.numel() for p in parameters):.2e}") == PARAMETERS[name]
    data = SimpleNamespace(image_size=config["data"]["init_args"].get("image_size"))
    with torch.device("cpu"):
        check_settings(stage, data)
        check_data(stage, data)


SMALL = """
trainer: {devices: 1, num_nodes: 1, precision: 32-true}
model:
  init_args:
    network:
      init_args:
        unet: {image_size: 16, channels: 8, depth: 1, channel_multipliers: [1, 2], head_channels: 8,
          attention_resolutions: [8], dropout: 0.0}
        embedding_dim: 16
        vocab_size: 30
        context_length: 20
        text_width: 8
        text_depth: 1
        text_heads: 2
    drop_text: 0.0
    drop_embedding: 0.0
    training: {compile: false}
"""


@pytest.mark.parametrize("names", [("decoder",), ("decoder", "text_decoder")])
def test_the_text_decoder_is_conditioned_on_z_t_and_on_nothing_of_the_image(tiny, shapes, tmp_path, names):
    """In training, in validation and in what is sampled; the decoder itself the other way round."""
    (tmp_path / "small.yaml").write_text(SMALL)
    files = [*(PAPER / f"{name}.yaml" for name in names), tmp_path / "small.yaml"]
    words = [word for file in files for word in ("--config", str(file))]
    stage = CLI("fit", [*words, f"--trainer.default_root_dir={tmp_path / 'run'}"]).model
    tiny.randomise(stage.network)
    tiny.randomise(stage.averaged)
    batch = shapes().dataset("train").__getitems__(range(6))
    reads = "z_t" if "text_decoder" in names else "z_i"
    x_t, t = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(0)), torch.full((6,), 500)

    def outputs(rows):
        changed = batch._replace(embeddings=rows)
        losses = [
            loss(changed, torch.Generator().manual_seed(1)) for loss in (stage.training_loss, stage.validation_loss)
        ]
        return stage.averaged_model.conditioned(changed)[0](x_t, t), torch.stack(losses)

    with torch.no_grad():
        image, losses = outputs(batch.embeddings)
        for name in ("z_i", "z_t"):
            rows = batch.embeddings._replace(**{name: -getattr(batch.embeddings, name)})
            other, other_losses = outputs(rows)
            assert torch.equal(other, image) == torch.equal(other_losses, losses) == (name != reads)
            if name == reads:
                assert ((other - image).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
                assert (other_losses != losses).all()
