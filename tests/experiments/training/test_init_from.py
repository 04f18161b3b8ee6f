"""`init_from`: a training starts from the weights of another; what does not fit is named before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from experiments.cli import main
from modules.networks.embedding_pathway import EmbeddingPathway

CHANGES = {"decoder": {"objective": {"parameterization": "x0", "learned_sigma": False}}}


@pytest.fixture
def config(tiny, embeddings, tmp_path):
    """Writes a tiny stage's YAML of one step with learning rate 0, which starts from `source`."""

    def write(name: str, source: str, network=None, **top) -> list[str]:
        path, network_path, arguments, others = tiny.STAGES[name]
        others = {**others, **CHANGES.get(name, {}), "training": {"ema_decay": 0.5}}
        still = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0, "weight_decay": 0.0}}
        made = {"class_path": network_path, "init_args": {**arguments, **(network or {})}}
        data = {"image_size": 16, "batch_size": 4, **tiny.SIZES, "embeddings": str(embeddings), "cache_dir": None}
        content = {
            "init_from": source,
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 1,
                "limit_val_batches": 0,
                "logger": False,
                "default_root_dir": str(tmp_path / "run" / name),
            },
            "model": {"class_path": path, "init_args": {"network": made, **others, "optimizer": still}},
            "data": {"class_path": "datamodules.shapes.ShapesDataModule", "init_args": data},
            **top,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return ["fit", "--config", str(tmp_path / f"{name}.yaml")]

    return write


def exported(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "export" / "model.safetensors")


@pytest.mark.parametrize("name", ["ar_prior", "decoder", "diffusion_prior"])
def test_a_training_without_steps_of_any_length_ends_with_the_weights_it_started_from(
    config, stored_run, tmp_path, name, capsys
):
    # The AR prior's codec among them: fitted anew, its codes would mean other embeddings.
    assert main(config(name, str(stored_run / name))) == 0
    before, after = exported(stored_run, name), exported(tmp_path / "run", name)
    kept = [key for key in before if not key.startswith("statistics.")]
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert f"init_from: {len(kept)} tensors of" in capsys.readouterr().out
    about = yaml.safe_load((tmp_path / "run" / name / "export" / "config.yaml").read_text())
    assert about["init_from"] == str(stored_run / name)


def test_whitening_is_kept_with_the_weights_behind_it(config, tiny, tmp_path):
    changes = {"pathway": {"whiten": True}}
    network = tiny.randomise(tiny.make_network("decoder", pathway=EmbeddingPathway(whiten=True)))
    whitening = network.clip_features.whitening
    whitening.mean.fill_(0.25)
    whitening.matrix.mul_(2)
    save_file(network.state_dict(), tmp_path / "given.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: mine-1.0\n---\n# Somebody's decoder\n\n## Licence\n\nBe kind.\n")
    assert main(config("decoder", str(tmp_path / "given.safetensors"), changes)) == 0
    about = yaml.safe_load((tmp_path / "run" / "decoder" / "export" / "config.yaml").read_text())
    assert about["licence"] == {"name": "mine-1.0", "text": "Be kind.", "of": "Somebody's decoder"}
    after = exported(tmp_path / "run", "decoder")
    assert torch.equal(after["clip_features.whitening.mean"], whitening.mean)
    assert torch.equal(after["clip_features.whitening.matrix"], whitening.matrix)


def test_a_checkpoint_gives_its_average(config, tiny, stored_run, tmp_path):
    weights = load_file(stored_run / "linear_prior" / "export" / "model.safetensors")
    state = {f"network.{name}": tensor + 1 for name, tensor in weights.items()}
    state |= {f"average.module.{name}": tensor for name, tensor in weights.items()} | {
        "average.n_averaged": torch.tensor(3)
    }
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    assert main(config("linear_prior", str(tmp_path / "last.ckpt"))) == 0
    after = exported(tmp_path / "run", "linear_prior")
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_a_checkpoint_gives_its_best_average_where_it_keeps_one(config, stored_run, tmp_path):
    weights = load_file(stored_run / "linear_prior" / "export" / "model.safetensors")
    state = {f"average.module.{name}": tensor + 1 for name, tensor in weights.items()}
    torch.save({"state_dict": state, "best_average": {"weights": weights}}, tmp_path / "last.ckpt")
    assert main(config("linear_prior", str(tmp_path / "last.ckpt"))) == 0
    after = exported(tmp_path / "run", "linear_prior")
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_what_does_not_fit_is_listed_by_name_and_refused(config, stored_run, tmp_path, capsys):
    folder = shutil.copytree(stored_run / "decoder", tmp_path / "other")
    file = folder / "export" / "model.safetensors"
    tensors = load_file(file)
    gone, cut = "unet.first.bias", "clip_to_emb.0.weight"
    tensors["left_over"] = torch.zeros(3, 2)
    del tensors[gone]
    tensors[cut] = tensors[cut][:, :8].clone()
    save_file(tensors, file)
    about = yaml.safe_load((folder / "export" / "config.yaml").read_text())
    about["init_args"]["objective"]["parameterization"] = "v"
    about["init_args"]["network"]["init_args"]["unet"]["head_channels"] = 4
    about["clip_fingerprint"] = "0123456789abcdef"
    (folder / "export" / "config.yaml").write_text(yaml.safe_dump(about))
    words = config("decoder", str(folder))
    assert main(words) == 2
    said = capsys.readouterr()
    lines = sorted(line for line in said.out.splitlines() if line.startswith("init_from: "))
    assert [line.split(": ", 2)[1] for line in lines] == [
        "another CLIP",
        "another meaning",
        "another meaning",
        "another shape",
        "missing",
        "unused",
    ]
    assert f"{cut} is 32x8 in the file and 32x16 here" in lines[3] and gone in lines[4] and "left_over 3x2" in lines[5]
    assert "network.unet.head_channels was 4, here it is 8" in "".join(lines)
    assert "objective.parameterization was v, here it is x0" in "".join(lines)
    assert "in 6 places" in said.err and said.err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main([*words, "--strict=false"]) == 0
    after = exported(tmp_path / "run", "decoder")
    same = [name for name in tensors if name in after and torch.equal(tensors[name], after[name])]
    assert len(same) == len(tensors) - 2 and after[cut].shape == (32, 16)


def test_a_file_that_is_not_there_or_no_weights(config, tmp_path, capsys):
    for source, line in (
        ("nowhere/decoder", "init_from: no weights at nowhere/decoder"),
        (str(Path(__file__)), "neither a .safetensors file nor a checkpoint"),
    ):
        assert main(config("linear_prior", source)) == 2
        assert line in capsys.readouterr().err


def test_another_ones_weights_start_nothing(config, stored_run, capsys):
    assert main([*config("linear_prior", str(stored_run / "decoder")), "--strict=false"]) == 2
    assert "no tensor of" in capsys.readouterr().err


def test_a_training_that_goes_on_keeps_its_own_weights(config, stored_run, tmp_path):
    source = shutil.copytree(stored_run / "linear_prior", tmp_path / "source")
    words = config("linear_prior", str(source), checkpoint={"every_n_train_steps": 1})
    assert main(words) == 0
    first, file = exported(tmp_path / "run", "linear_prior"), source / "export" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert main([*words, "--ckpt_path=last", "--overwrite", "--trainer.max_steps=2"]) == 0
    after = exported(tmp_path / "run", "linear_prior")
    assert all(torch.equal(after[name], first[name]) for name in first)
