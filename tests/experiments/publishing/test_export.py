"""`unclip export`: what leaves the run, what its cards say, and that the folder samples the same pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from datamodules.rendered import openmoji
from experiments.cli import main
from experiments.publishing import model_card
from experiments.publishing.export import export
from experiments.publishing.model_card import parameters
from modules.errors import InputError
from modules.pipeline import UnCLIP
from modules.untrusted.eight_bits import SCALE
from modules.untrusted.weights import header_of, read_weights

DATA = {
    "class_path": "datamodules.shapes.ShapesDataModule",
    "init_args": {"image_size": 16, "train_size": 64, "seed": 0},
}
PROTOCOL = {
    "n": 8, "captions": 4, "per_caption": 2, "extractor": "classifier", "extractor_dim": 64, "clip": None,
    "inception": "FID is left out", "reference": "all", "reference_n": 16, "reference_digest": "56ef",
    "bootstrap": 10, "level": 0.95, "seed": 0,
}  # fmt: skip
ROW = {
    "condition": "glide",
    "n": 8,
    "frechet": {"value": 12.5, "low": 11.0, "high": 14.0},
    **dict.fromkeys(("fid", "clip_score", "accuracy", "diversity")),
    "protocol": PROTOCOL,
}


@pytest.fixture
def run(stored_run: Path, tmp_path: Path) -> Path:
    """A run folder as training leaves it: configs and a measured condition beside the weights."""
    run = tmp_path / "tiny"
    shutil.copytree(stored_run, run)
    for folder in (run / "clip", run / "glide", run / "decoder"):
        there = folder / "export" / "config.yaml"
        model = yaml.safe_load(there.read_text()) if there.exists() else {"class_path": "modules.clip.CLIPTrainer"}
        config = {"seed_everything": 7, "trainer": {"max_steps": 1234}, "model": model, "data": {**DATA}}
        config["data"]["init_args"] = {**DATA["init_args"], "batch_size": 48}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (run / "samples" / "glide").mkdir(parents=True)
    (run / "samples" / "glide" / "metrics.json").write_text(json.dumps(ROW))
    (run / "glide" / "checkpoints").mkdir()
    (run / "glide" / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (run / "unfinished").mkdir()
    (run / "unfinished" / "config.yaml").write_text("model: {}")
    return run


def pictures(folder: Path) -> torch.Tensor:
    return UnCLIP.from_run(folder).generate(["a small red circle", "a blue square"], "diffusion_prior")


def test_the_folder_draws_what_the_run_draws(run):
    assert main(["export", str(run)]) == 0
    out = run / "release"
    assert torch.equal(pictures(out), pictures(run))
    system = UnCLIP(out)
    assert system.has("decoder") and system.has("clip") and not system.has("unfinished")
    assert not UnCLIP(run).has("unfinished")


def test_weights_configs_and_cards_and_nothing_else_leave_the_run(run, tmp_path):
    names = export(run, tmp_path / "out")
    assert {"clip", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler"} <= set(names)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    stages = {
        f"{name}/{file}"
        for name in names
        if name != "clip"
        for file in ("config.yaml", "model.safetensors", "README.md")
    }
    clip = {
        f"clip/{x}" for x in ("open_clip_config.json", "open_clip_model.safetensors", "vocabulary.json", "README.md")
    }
    assert files == stages | clip | {"README.md"}


def test_a_card_says_what_on_what_how_long_how_good_and_how_to_load(run, tmp_path):
    export(run, tmp_path / "out", ["glide", "clip"])
    text = (tmp_path / "out" / "glide" / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["license"] == "mit"
    weights = tmp_path / "out" / "glide" / "model.safetensors"
    count = sum(tensor.numel() for tensor in load_file(weights).values())
    assert parameters(weights) == count
    for words in (
        "# tiny: glide",
        "A decoder of captions alone, as GLIDE",
        f"{count:,} numbers",
        "`datamodules.shapes.ShapesDataModule` (image_size 16, train_size 64, seed 0)",
        "steps: 1,234",
        "samples a step: 48",
        "seed: 7",
        "12.5",
        "MIT, as the package",
        'load_model("out/glide").model',
    ):
        assert words in body, words
    assert 'FrozenCLIP("out/clip")' in (tmp_path / "out" / "clip" / "README.md").read_text()
    whole = (tmp_path / "out" / "README.md").read_text()
    assert "[glide](glide/README.md)" in whole and 'UnCLIP.from_run("out")' in whole and "12.5" in whole


def test_data_of_others_bring_their_licence_and_attribution(run, tmp_path):
    config = yaml.safe_load((run / "glide" / "config.yaml").read_text())
    config["data"] = {
        "class_path": "datamodules.emoji.EmojiDataModule",
        "init_args": {"image_size": 16, "cache_dir": None},
    }
    (run / "glide" / "config.yaml").write_text(yaml.safe_dump(config))
    export(run, tmp_path / "out", ["glide"])
    text = (tmp_path / "out" / "glide" / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in text
    assert text.count("OpenMoji (https://openmoji.org), CC BY-SA 4.0") == 2  # with the data, and under "Licence"


def test_a_card_says_that_validation_chose_the_weights(run, tmp_path):
    path = run / "glide" / "export" / "config.yaml"
    chosen = {"by": "min val/loss", "of_steps": 2000}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "chosen": chosen}))
    export(run, tmp_path / "out", ["glide"])
    assert "steps: 1,234 of 2000, chosen by min val/loss" in (tmp_path / "out" / "glide" / "README.md").read_text()


def test_sets_that_only_training_shows_are_other_data():
    data = {"class_path": "datamodules.emoji_styles.EmojiStylesDataModule", "init_args": {"packages": "a"}}
    more = {**data, "init_args": {"packages": "a", "training_packages": "b"}}
    assert model_card._source(data) != model_card._source(more)


WHOM = "Noto Emoji by Google Inc (Apache 2.0, https://x.org); OpenMoji by OpenMoji (CC BY-SA 4.0, https://y.org)"


def test_what_one_stage_recorded_of_the_data_stands_in_the_cards_of_all(run, tmp_path):
    """The decoder's export says whom to name; the CLIP and the upsampler have the same data in another batch."""
    stages = ["clip", "decoder", "upsampler"]
    for size, name in enumerate(stages):
        path = run / name / "config.yaml"
        arguments = {"packages": "data/emoji", "batch_size": 8 * (size + 1)}
        data = {"class_path": "datamodules.emoji_styles.EmojiStylesDataModule", "init_args": arguments}
        model = yaml.safe_load((run / "decoder" / "config.yaml").read_text())["model"]
        config = yaml.safe_load(path.read_text()) if path.exists() else {"model": model}
        path.write_text(yaml.safe_dump({**config, "data": data}))
    path = run / "decoder" / "export" / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "attribution": WHOM}))
    real = run / "samples" / "real"
    real.mkdir(parents=True, exist_ok=True)
    line = {"file": "00000.png", "caption": "owl in the Noto style", "caption_index": 0, "sample_index": 0, "seed": 0}
    (real / "manifest.jsonl").write_text(json.dumps({**line, "condition": "real"}) + "\n")
    export(run, tmp_path / "out", stages)
    for name in [*stages, "."]:
        text = (tmp_path / "out" / name / "README.md").read_text()
        licence = text[text.index("## Licence") :]
        assert WHOM in licence, name
        assert "license: cc-by-sa-4.0" in text, name  # Of OpenMoji and Noto together.
        assert "- Apache 2.0: keep its notices" in licence and "- CC BY-SA 4.0: name author" in licence
        assert "- MIT" not in licence and "- CC BY 4.0" not in licence
    assert text.count("owl in the Noto style") == 2  # in Python, and on a command line
    assert "small red circle" not in text


@pytest.mark.parametrize(
    ("whom", "licence"),
    [
        ("Noto by Google (Apache 2.0, https://x.org); Fluent by Microsoft (MIT, https://y.org)", "apache-2.0"),
        (
            "Twitter Emoji by Twitter (CC BY 4.0, https://x.org); Noto by Google (Apache 2.0, https://y.org)",
            "cc-by-4.0",
        ),
        ("Fluent by Microsoft (MIT, https://x.org)", "mit"),
        ("Noto by Google (Apache 2.0, https://x.org); mine (Mine 1.0, https://y.org)", "other"),
        ("Icons by MIT Media Lab (GPL 3.0, https://x.org)", "other"),
        ("OpenMoji (https://openmoji.org), CC BY-SA 4.0; Fluent by Microsoft (MIT, https://y.org)", "cc-by-sa-4.0"),
        ("the authors of the icon sets, as `unclip data check` lists them", "other"),
        (openmoji.ATTRIBUTION, "cc-by-sa-4.0"),
        (None, "other"),
    ],
)
def test_the_licence_of_a_card_is_the_one_that_asks_the_most_or_unknown(whom, licence):
    assert model_card.in_short(whom) == licence


def test_data_of_others_under_mit_are_not_drawn_by_the_package(run, tmp_path):
    """They ask for their notice, though the card's short licence is the package's."""
    path = run / "glide" / "config.yaml"
    data = {"class_path": "datamodules.emoji_styles.EmojiStylesDataModule", "init_args": {"packages": "data/emoji"}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "data": data}))
    path = run / "glide" / "export" / "config.yaml"
    whom = "Fluent by Microsoft (MIT, https://x.org)"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "attribution": whom}))
    export(run, tmp_path / "out", ["glide"])
    for card in ("README.md", "glide/README.md"):
        text = (tmp_path / "out" / card).read_text()
        assert "license: mit\n" in text and "drawn by the package" not in text
        assert whom in text and "- MIT: keep its copyright notice" in text


def test_weights_that_were_fine_tuned_bring_the_licence_of_those_before(run, tmp_path):
    path = run / "glide" / "export" / "config.yaml"
    licence = {"name": "mine-1.0", "text": "Be kind.", "of": "Somebody's decoder"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "licence": licence}))
    export(run, tmp_path / "out", ["glide", "clip"])
    text = (tmp_path / "out" / "glide" / "README.md").read_text()
    assert "license: mine-1.0" in text and "The weights come from Somebody's decoder. Be kind." in text
    whole = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in whole and "(unCLIP's baseline); licence mine-1.0" in whole


def starts_from(stage: Path, source: Path | str, trained_in: Path | None = None) -> None:
    """Record that a stage began from other weights, and in which run folder, by default the one it lies in."""
    config = yaml.safe_load((stage / "config.yaml").read_text())
    trainer = {"default_root_dir": str((trained_in or stage.parent) / stage.name)}
    (stage / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": trainer, "init_from": str(source)}))


@pytest.mark.parametrize("form", ["", "export", "export/model.safetensors", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("place", ["here", "moved", "copied", "of another run"])
def test_an_earlier_training_of_a_stage_stays_behind(run, tmp_path, capsys, place, form):
    """Also where the run has been moved or copied since. A stage of the same name in another run is no reason."""
    shutil.copytree(run / "decoder", run / "decoder_first")
    shutil.copytree(run / "decoder", tmp_path / "other" / "tiny" / "decoder_first")
    gone, other = tmp_path / "gone", tmp_path / "other" / "tiny"
    folder = {"here": run, "moved": gone, "copied": other, "of another run": other}[place]
    starts_from(run / "decoder", folder / "decoder_first" / form, run if place == "of another run" else folder)
    names = export(run, tmp_path / "out")
    stays = place == "of another run"
    assert ("decoder_first" in names) == stays and "decoder" in names
    assert ("left out: decoder_first: an earlier training" in capsys.readouterr().out) != stays
    assert export(run, tmp_path / "two", ["decoder", "decoder_first"]) == ["decoder", "decoder_first"]


def test_a_chain_of_trainings_leaves_its_last_one(run, tmp_path):
    for name in ("decoder_first", "decoder_second"):
        shutil.copytree(run / "decoder", run / name)
    starts_from(run / "decoder_second", run / "decoder_first")
    starts_from(run / "decoder", run / "decoder_second")
    names = export(run, tmp_path / "out")
    assert "decoder" in names and not {"decoder_first", "decoder_second"} & set(names)


def test_a_model_with_a_fine_tuned_copy_is_taken(run, tmp_path):
    """`decoder` draws; what was trained on from it has another name. Nor is a stage its own earlier training."""
    shutil.copytree(run / "decoder", run / "decoder_finished")
    starts_from(run / "decoder_finished", run / "decoder")
    starts_from(run / "decoder", "elsewhere/tiny/decoder")
    assert {"decoder", "decoder_finished"} <= set(export(run, tmp_path / "out"))


def test_what_is_in_the_way_stays(run, tmp_path):
    out = tmp_path / "out"
    export(run, out, ["glide"])
    with pytest.raises(InputError, match="exists; --overwrite replaces it"):
        export(run, out)
    export(run, out, ["decoder"], overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "decoder"]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="not one of this command's"):
        export(run, other, overwrite=True)
    assert not list(tmp_path.glob(".*.part"))


def test_what_has_not_been_trained_is_named(run, tmp_path, capsys):
    assert main(["export", str(run), "--stages", "glide,unfinished", "--out", str(tmp_path / "out")]) == 2
    assert "holds no trained unfinished; it has ar_prior, clip" in capsys.readouterr().err
    for words in ("", ",", "glide,"):
        assert main(["export", str(run), "--stages", words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error == (
            f"unclip: --stages takes names of stages separated by commas, as in clip,decoder, not {words!r}\n"
        )
    assert not (tmp_path / "out").exists()
    assert main(["export", str(run), "--stages", " glide,glide", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "glide"]
    capsys.readouterr()
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_half_precision_draws_nearly_the_same_from_half_the_bytes(run, tmp_path):
    """Weights are rounded to 11 bits and computed with as float32; the stages know the CLIP with rounded weights."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    export(run, whole)
    export(run, half, size="half")
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.safetensors")) for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    stored = load_file(half / "decoder" / "model.safetensors")
    true = load_file(whole / "decoder" / "model.safetensors")
    for name, tensor in true.items():
        assert torch.equal(stored[name], tensor.half() if tensor.ndim > 1 else tensor), name
    codec = {name: t for name, t in load_file(half / "ar_prior" / "model.safetensors").items() if "codec." in name}
    assert codec and all(t.dtype != torch.float16 for t in codec.values())
    system = UnCLIP.from_run(half)
    assert {p.dtype for p in system.decoder().network.parameters()} == {torch.float32}
    _, z_t = system.embed_text(["a small red circle", "a blue square"])
    expected = UnCLIP.from_run(whole).embed_text(["a small red circle", "a blue square"])[1]
    assert (z_t - expected).abs().max() < 2e-2
    assert pictures(half).shape == pictures(whole).shape


def test_eight_bits_draw_nearly_the_same_from_a_quarter_of_the_bytes(run, tmp_path):
    """No weight is off by more than half a step of its row; the CLIP, whose file open_clip reads, has float16."""
    whole, small = tmp_path / "whole", tmp_path / "small"
    export(run, whole)
    export(run, small, size="quarter")
    true = load_file(whole / "decoder" / "model.safetensors")
    stored, read = (
        load_file(small / "decoder" / "model.safetensors"),
        read_weights(small / "decoder" / "model.safetensors"),
    )
    assert read[0].keys() == true.keys() < stored.keys()
    matrices = [name for name, tensor in true.items() if tensor.ndim > 1 and name + SCALE in stored]
    assert sum(true[name].numel() for name in matrices) > 0.9 * sum(tensor.numel() for tensor in true.values())
    for name in matrices:
        step = true[name].flatten(1).abs().amax(dim=1) / 127
        off = (read[0][name] - true[name]).flatten(1).abs().amax(dim=1)
        assert (off <= 0.5001 * step).all() and stored[name].dtype == torch.int8, name
    assert all(torch.equal(read[0][name], tensor) for name, tensor in true.items() if name not in matrices)
    assert {tensor.dtype for tensor in load_file(small / "clip" / "open_clip_model.safetensors").values()} == {
        torch.float16,
        torch.float32,
    }
    sizes = [(folder / "decoder" / "model.safetensors").stat().st_size for folder in (whole, small)]
    assert sizes[1] < 0.5 * sizes[0]  # Names and scales take much of so small a file.
    tensors = header_of(small / "decoder" / "model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {n: (t.shape, t.dtype) for n, t in true.items()}
    said = "numbers (8-bit integers with a scale for each row), "
    assert said in (small / "decoder" / "README.md").read_text()
    assert said not in (small / "clip" / "README.md").read_text()
    assert pictures(small).shape == pictures(whole).shape


def test_a_weight_that_half_precision_does_not_hold_is_refused(run, tmp_path):
    path = run / "decoder" / "export" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    tensors[name][0] = 1e6
    from modules.models.exports import write_weights

    write_weights(tensors, path)
    with pytest.raises(InputError, match=f"decoder: {name} holds values beyond 65504"):
        export(run, tmp_path / "half", size="half")
    assert not (tmp_path / "half").exists()
