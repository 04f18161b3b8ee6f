"""`unclip import` as a person uses it: what is refused in one line, what cards say, what the hub is asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

import original
import released

from experiments.cli import main
from experiments.publishing.diffusers_folder import processor
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError
from modules.models.licences import licence_behind
from modules.pipeline import UnCLIP
from modules.pretrained import karlo
from modules.pretrained.clip import of_transformers
from modules.seeds import ImageSeeds

FEW = ["--prior-steps", "2", "--decoder-steps", "2", "--upsampler-steps", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Karlo's files in diffusers' layout, with both towers of the CLIP."""
    folder = tmp_path_factory.mktemp("karlo") / "karlo-v1-alpha"
    released.karlo(folder)
    return folder


@pytest.fixture(scope="module")
def run(files):
    out = files.parent / "run"
    assert main(["import", "karlo", str(files), "--out", str(out)]) == 0
    return out


@pytest.fixture
def prior_files(files, tmp_path):
    """A copy of the prior and its CLIP, to be changed."""
    for name in ("prior", "text_encoder", "image_encoder"):
        shutil.copytree(files / name, tmp_path / "files" / name)
    return tmp_path / "files"


def changed(path: Path, **settings: object) -> None:
    """A config with other settings; None takes one out."""
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refused(words: list[str], capsys) -> str:
    """The one line that a command says when it ends with exit code 2."""
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_an_imported_run_is_drawn_from_by_the_command(run, tmp_path, capsys):
    words = ["sample", "a red cube", "-n", "2", "--run", str(run), "--seed", "3", "--set", "prior.guidance_scale=4.0"]
    assert main([*words, *FEW, "--out", str(tmp_path / "out")]) == 0
    settings = {"diffusion_prior": {"steps": 2, "guidance_scale": 4.0}, "decoder": {"steps": 2}}
    system = UnCLIP(run, overrides={**settings, "upsampler": {"steps": 2}})
    drawn = system.generate(["a red cube"] * 2, seed=3, places=[(0, 0), (0, 1)])
    wanted = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for k, pixels in enumerate(wanted):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{k:05d}.png")), pixels)
    assert wanted.shape == (2, 64, 64, 3) and not np.array_equal(*wanted)


def test_a_release_keeps_its_licence_wherever_it_goes(run, tmp_path):
    assert main(["export", str(run), "--half", "--out", str(tmp_path / "out")]) == 0
    for name, file in (("decoder", "model.safetensors"), ("clip", "open_clip_model.safetensors")):
        card = (tmp_path / "out" / name / "README.md").read_text()
        assert "license: creativeml-openrail-m" in card and "its use restrictions bind whoever passes" in card
        digest = hashlib.sha256((tmp_path / "out" / name / file).read_bytes()).hexdigest()
        assert f"sha256 `{digest}`" in card and card.count("sha256") == 1 and "## Load it" in card
    whole = (tmp_path / "out" / "README.md").read_text()
    assert whole.startswith("---\nlicense: creativeml-openrail-m") and whole.count("; licence creativeml") == 4
    assert main(["export", str(run), "--format", "diffusers", "--out", str(tmp_path / "diffusers")]) == 0
    card = (tmp_path / "diffusers" / "README.md").read_text()
    assert "license: creativeml-openrail-m" in card
    assert "- decoder, from Karlo v1.0 alpha, Kakao Brain: decoder: CreativeML Open RAIL-M" in card
    assert licence_behind(str(run / "decoder")).name == "creativeml-openrail-m"


def test_a_run_whose_clip_is_of_unit_norm_takes_no_released_stage(prior_files, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["import", "clip", str(prior_files), "--out", str(out)]) == 0
    capsys.readouterr()
    words = ["import", "kandinsky-prior", str(prior_files), "--out", str(out)]
    assert "gives embeddings of unit norm, and released priors" in refused(words, capsys)
    assert not (out / "diffusion_prior").exists()
    assert main(["import", "clip", str(prior_files), "--out", str(out), "--embeddings", "raw", "--overwrite"]) == 0
    assert main(words) == 0


def test_a_clip_of_ours_brings_its_words(clip_folder, tmp_path, capsys):
    assert main(["import", "clip", str(clip_folder), "--out", str(tmp_path / "run")]) == 0
    assert FrozenCLIP(str(tmp_path / "run" / "clip" / "export")).fingerprint == FrozenCLIP(str(clip_folder)).fingerprint
    lost = shutil.copytree(clip_folder, tmp_path / "lost")
    (lost / "vocabulary.json").unlink()
    assert f"{lost / 'vocabulary.json'} is missing" in refused(
        ["import", "clip", str(lost), "--out", str(tmp_path / "other")], capsys
    )


def eclipse(folder: Path, dim: int) -> Path:
    theirs = released.prior(additional_embeddings=3, embedding_dim=dim)
    theirs.save_pretrained(folder)
    tensors = {k: x for k, x in theirs.state_dict().items() if not k.startswith("time_embedding")}
    released_file = folder / "diffusion_pytorch_model.safetensors"
    released_file.unlink()
    save_file(tensors, released_file)
    return folder


def test_every_release_keeps_its_section_of_the_card(prior_files, tmp_path):
    out = tmp_path / "run"
    (prior_files / "README.md").write_text("---\nlicense: mine-1.0\n---\nA card.\n")
    assert main(["import", "kandinsky-prior", str(prior_files), "--out", str(out)]) == 0
    assert main(["import", "eclipse", str(eclipse(tmp_path / "eclipse", 32)), "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "# Kandinsky's prior, AI Forever" in card and "Licence: mine-1.0" in card and "# ECLIPSE's prior" in card
    assert "(eclipse_prior/export/README.md)" in card and "(diffusion_prior/export/README.md)" in card
    clip = (out / "clip" / "export" / "open_clip_model.safetensors").stat().st_mtime_ns
    words = ["import", "eclipse", str(tmp_path / "eclipse"), "--out", str(out), "--overwrite"]
    assert main(words) == 0  # ECLIPSE's folder has no CLIP, so that the run's stays.
    assert (out / "clip" / "export" / "open_clip_model.safetensors").stat().st_mtime_ns == clip
    assert main([*words, "--clip", str(prior_files)]) == 0
    assert (out / "clip" / "export" / "open_clip_model.safetensors").stat().st_mtime_ns != clip
    assert (out / "README.md").read_text().count("# ECLIPSE's prior") == 1


def test_a_prior_whose_clip_is_nowhere_says_so(tmp_path, capsys):
    """Its folder has a config.json, which is no CLIP's."""
    words = ["import", "eclipse", str(eclipse(tmp_path / "eclipse", 32)), "--out", str(tmp_path / "run")]
    assert "eclipse has no text_encoder and image_encoder, and a run needs the whole CLIP" in refused(words, capsys)


def test_what_was_written_before_a_stage_is_refused_goes(prior_files, files, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(files / "decoder", prior_files / "decoder")
    words = ["import", "karlo", str(prior_files), "--out", str(out)]
    assert "holds decoder without text_proj, and both make one stage" in refused(words, capsys)
    shutil.copytree(files / "text_proj", prior_files / "text_proj")
    weights = prior_files / "text_proj" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), "embedding_proj.weight": torch.zeros(3, 3)}, weights)
    assert "the shape is (3, 3) as text.z_t.weight" in refused(words, capsys)
    assert not out.exists()
    shutil.copy(files / "text_proj" / weights.name, weights)
    assert main(words) == 0
    kept = (out / "diffusion_prior" / "config.yaml").read_bytes()
    weights.write_bytes(b"")
    assert "is damaged" in refused([*words, "--overwrite"], capsys)
    assert (out / "diffusion_prior" / "config.yaml").read_bytes() == kept  # It was there before.


def test_a_stage_of_another_width_than_the_clips_is_refused(prior_files, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["import", "kandinsky-prior", str(prior_files), "--out", str(out)]) == 0
    capsys.readouterr()
    said = refused(["import", "eclipse", str(eclipse(tmp_path / "eclipse", 64)), "--out", str(out)], capsys)
    assert "eclipse_prior takes embeddings of 64 dimensions, the run's CLIP gives 32" in said
    assert not (out / "eclipse_prior").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"embedding_dim": None}, "embedding_dim should be a whole number above 0, found None"),
        ({"num_layers": "two"}, "num_layers should be a whole number above 0, found 'two'"),
        ({"num_attention_heads": 0}, "num_attention_heads should be"),
        ({"num_layers": 10**9}, "the network has more layers than the file of weights has tensors"),
        ({"norm_in_type": "layer"}, "norm_in_type is 'layer'; only None is read here"),
        ({"num_layers": 1}, "holds a tensor transformer_blocks.1."),
        ({"num_layers": 3}, "has no tensor transformer_blocks.2."),
    ],
)
def test_a_config_that_is_not_the_weights_is_one_line(prior_files, tmp_path, capsys, settings, told):
    changed(prior_files / "prior" / "config.json", **settings)
    assert told in refused(["import", "kandinsky-prior", str(prior_files), "--out", str(tmp_path / "run")], capsys)


@pytest.mark.parametrize(
    ("part", "settings", "told"),
    [
        ("decoder", {"sample_size": None}, "sample_size should be a whole number above 0, found None"),
        ("decoder", {"block_out_channels": None}, "block_out_channels should be a list, found None"),
        ("decoder", {"block_out_channels": [0, 128]}, r"block_out_channels should be a list, found [0, 128]"),
        ("decoder", {"block_out_channels": [64, 100]}, "are of no ADM network"),
        ("decoder", {"down_block_types": ["DownBlock2D", "DownBlock2D"]}, "blocks of the kind DownBlock2D"),
        ("decoder", {"norm_num_groups": 7}, "there is no DecoderNetwork of these sizes"),
        ("text_proj", {"cross_attention_dim": None}, "cross_attention_dim should be a whole number"),
        ("decoder_scheduler", {"clip_sample_range": "one"}, "clip_sample_range is 'one'; only 1.0 is read here"),
    ],
)
def test_a_decoders_config_is_looked_at(files, tmp_path, part, settings, told):
    for name in ("decoder", "text_proj", "decoder_scheduler"):
        shutil.copytree(files / name, tmp_path / name)
    name = "scheduler_config.json" if part.endswith("scheduler") else "config.json"
    changed(tmp_path / part / name, **settings)
    with pytest.raises(InputError) as error:
        karlo.decoder(tmp_path)
    assert told in str(error.value)


def test_statistics_of_another_form_are_refused(files, tmp_path):
    parts = {"prior": released.prior()}
    state = {f"model.{k}": x for k, x in original.prior(parts["prior"]).items()}
    torch.save({"state_dict": state}, tmp_path / "prior-ckpt-step=1.ckpt")
    torch.save((torch.zeros(32),), tmp_path / "ViT-L-14_stats.th")
    with pytest.raises(InputError, match="should hold two tensors of one length"):
        karlo.original_prior(tmp_path)


def test_a_file_in_the_place_of_its_folder_is_told_so(tmp_path, capsys):
    (tmp_path / "base.pt").touch()
    said = refused(["import", "glide", str(tmp_path / "base.pt"), "--out", str(tmp_path / "run")], capsys)
    assert f"is a file: name the folder that it lies in, {tmp_path}" in said


def test_a_folder_of_nothing_is_told_so_before_a_clip_is_looked_for(tmp_path, capsys):
    (tmp_path / "files").mkdir()
    words = ["import", "karlo", str(tmp_path / "files"), "--out", str(tmp_path / "run")]
    assert "holds none of Karlo's files" in refused(words, capsys)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, ("bicubic", "shortest")),
        ({"resample": 2, "size": {"shortest_edge": 32}}, ("bilinear", "shortest")),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, ("bicubic", "squash")),
        ({"resample": 0}, "resample is 0"),
        ({"size": {"shortest_edge": 64}}, "the model takes 32 pixels a side"),
    ],
)
def test_a_clips_preprocessing_is_what_its_processor_says(files, tmp_path, config, wanted):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    places = files / "text_encoder", files / "image_encoder", tmp_path / "preprocessor_config.json"
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted):
            of_transformers(*places, "raw")
        return
    found = of_transformers(*places, "raw").config["preprocess_cfg"]
    assert (found["interpolation"], found["resize_mode"]) == wanted


def test_a_clips_preprocessing_goes_back_to_transformers(files, tmp_path):
    for own in (("bilinear", "squash"), ("bicubic", "shortest"), ("bilinear", "shortest")):
        config = {"size": 32, "interpolation": own[0], "resize_mode": own[1]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor(config)))
        places = files / "text_encoder", files / "image_encoder", tmp_path / "preprocessor_config.json"
        found = of_transformers(*places, "raw").config["preprocess_cfg"]
        assert (found["interpolation"], found["resize_mode"]) == own
    with pytest.raises(InputError, match="no resize_mode longest"):
        processor({"resize_mode": "longest"})


def test_names_on_the_hub_for_source_and_clip(files, run, hub, tmp_path, capsys):
    """The prior lies there as a pickle beside a decoder in safetensors, and the picture's tower in another folder."""
    content = {}
    for path in files.rglob("*"):
        if path.is_file() and "image_encoder" not in path.parts:
            content[path.relative_to(files).as_posix()] = path.read_bytes()
    weights = content.pop("prior/diffusion_pytorch_model.safetensors")
    (tmp_path / "x.safetensors").write_bytes(weights)
    torch.save(load_file(tmp_path / "x.safetensors"), tmp_path / "x.bin")
    content["prior/diffusion_pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
    content["decoder/diffusion_pytorch_model.bin"] = b"never asked for"
    hub.commit("somebody/karlo", content)
    towers = {
        f"{name}/{path.name}": path.read_bytes()
        for name in ("text_encoder", "image_encoder")
        for path in (files / name).iterdir()
    }
    revision = hub.commit("somebody/clip", towers)
    hub.commit("somebody/clip", {"image_encoder/config.json": b"{}"})
    words = ["import", "karlo", "somebody/karlo", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # Behind the bars of what was fetched.
    assert "has no image_encoder" in said and "--clip openai/clip-vit-large-patch14" in said
    assert main([*words, "--clip", "somebody/clip"]) == 2
    assert "it is no CLIP's of transformers" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--clip", f"somebody/clip@{revision}"]) == 0
    assert "decoder/diffusion_pytorch_model.bin" not in hub.asked
    assert FrozenCLIP(str(tmp_path / "run" / "clip" / "export")).fingerprint == (
        FrozenCLIP(str(run / "clip" / "export")).fingerprint
    )
    ours, theirs = (
        load_file(place / "diffusion_prior" / "export" / "model.safetensors") for place in (tmp_path / "run", run)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


PAIRS = "#version: 0.2\n\u0120 r\n\u0120r e\n\u0120re d\n\u0120 c\n\u0120c u\n\u0120cu b\n\u0120cub e\n"
"""Byte pairs by which "a red cube" is three tokens."""
KNOWN = 256 + 7 + 1


@pytest.fixture(scope="module")
def glide_files(tmp_path_factory):
    """The upsampler attends at 32 x 32 places, as the released one does, and not at 128 x 128, which takes a minute."""
    folder = tmp_path_factory.mktemp("glide") / "files"
    folder.mkdir()
    for name, file, upper in (("base", "base.pt", 1), ("upsampler", "upsample.pt", 3)):
        torch.save(original.glide(upsampler=name == "upsampler", words=KNOWN, upper=upper), folder / file)
    return folder


def bytes_of(images: torch.Tensor) -> np.ndarray:
    """The first of (n, 3, H, W) in [-1, 1] as (H, W, 3) bytes."""
    return ((images[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def test_glide_draws_captions_by_its_own_byte_pairs(glide_files, tmp_path):
    """No CLIP is in the run; the caption reaches the upsampler, too."""
    files, run = tmp_path / "files", tmp_path / "run"
    shutil.copytree(glide_files, files)
    (files / "vocab.bpe").write_text(PAIRS, encoding="utf-8")
    assert main(["import", "glide", str(files), "--out", str(run)]) == 0
    few = ["--decoder-steps", "2", "--set", "upsampler.spacing=adm", "--upsampler-steps", "2"]
    words = ["sample", "A red cube", "--run", str(run), "--condition", "glide", "--seed", "5", *few]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    pixels = np.asarray(Image.open(tmp_path / "out" / "00000.png"))

    tokens = torch.zeros(1, 8, dtype=torch.int64)
    tokens[0, :3] = torch.tensor([ord("a") - ord("!"), 256 + 2, 256 + 6]) + 1
    settings = {"glide": {"steps": 2}, "upsampler": {"spacing": "adm", "steps": 2}}
    system = UnCLIP(run, overrides=settings)
    seeds = ImageSeeds.at(5, [(0, 0)])
    low = system.decoder("glide").sample(tokens, None, seeds.generators("decoder"))
    high = system.upsampler("upsampler").sample(low, seeds.generators("upsampler"), tokens=tokens)
    assert np.array_equal(pixels, bytes_of(high))
    untold = system.upsampler("upsampler").sample(low, seeds.generators("upsampler"))
    assert float((untold - high).abs().max()) > 1e-3
    (small,) = system.text_to_image("a red cube", seed=5, condition="glide", size=64)
    assert np.array_equal(np.asarray(small), bytes_of(low))
    assert not system.needs_clip("glide") and not system.has("clip")


def test_glide_without_its_byte_pairs_says_what_to_get(glide_files, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["import", "glide", str(glide_files), "--out", str(run)]) == 0
    words = ["sample", "a red cube", "--run", str(run), "--condition", "glide", "--out", str(tmp_path / "out")]
    assert "vocab.bpe beside GLIDE's files and import them again" in refused(words, capsys)
    files = tmp_path / "files"
    shutil.copytree(glide_files, files)
    (files / "merges.txt").write_text("a b\n")
    said = refused(["import", "glide", str(files), "--out", str(tmp_path / "other")], capsys)
    assert "knows 264 tokens, the byte pairs beside it make 258" in said
