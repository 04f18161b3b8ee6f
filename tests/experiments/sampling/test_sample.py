"""`unclip sample`: the same seed draws the same picture however it is asked for, and the manifest says how."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.samples.folder import SampleFolder
from experiments.cli import main
from experiments.sampling.captions import images_of
from modules.pipeline import UnCLIP

CAPTIONS = ["a small red circle", "a large blue square", "a green triangle above a red square"]
QUICK = ["--decoder-steps", "1", "--upsampler-steps", "1"]

THERE = ("caption_only", "glide", "text_embedding", "linear_prior", "ar_prior", "diffusion_prior", "image_embedding")
"""Conditions whose stages the run has."""


@pytest.fixture
def sample(stored_run, tmp_path, capsys):
    """Runs the command in-process into tmp_path/NAME; returns the folder."""

    def sample(name, *words, run=stored_run):
        of_tokens = {"dalle", "dvae_reconstruction"} & set(map(str, words))  # Their decoder takes no steps.
        quick = QUICK[2:] if of_tokens else QUICK
        assert main(["sample", "--run", str(run), "--out", str(tmp_path / name), *quick, *map(str, words)]) == 0
        capsys.readouterr()
        return SampleFolder.open(tmp_path / name)

    return sample


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join([CAPTIONS[0], "", f"  {CAPTIONS[1]} ", CAPTIONS[2], ""]))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """True pictures of 4 test captions, two each."""
    folder = tmp_path_factory.mktemp("real")
    config = folder / "data.yaml"
    init = "{image_size: 32, train_size: 8, val_size: 8, test_size: 8, cache_dir: null}"
    config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {init}}}")
    words = ["--config", str(config), "--captions", "4", "--per-caption", "2", "--out", str(folder / "real")]
    assert main(["data", "export", *words]) == 0
    return folder / "real"


def test_pictures_name_whom_the_training_data_want_to_be_named(sample, stored_run, real, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stored_run, run)
    path = run / "decoder" / "export" / "config.yaml"
    path.write_text(path.read_text() + "attribution: Drawings by A (CC BY 4.0)\n")
    alone = sample("alone", CAPTIONS[0], run=run)
    assert [record["attribution"] for record in alone.records] == ["Drawings by A (CC BY 4.0)"]
    assert (alone.path / "ATTRIBUTION.txt").read_text() == "Drawings by A (CC BY 4.0)\n"
    captions = tmp_path / "theirs"
    shutil.copytree(real, captions)
    lines = [json.loads(line) for line in (captions / "manifest.jsonl").read_text().splitlines()]
    of_captions = [json.dumps({**line, "attribution": "Captions by B"}) for line in lines]
    (captions / "manifest.jsonl").write_text("\n".join(of_captions) + "\n")
    both = sample("both", "--captions", captions / "manifest.jsonl", run=run)
    assert {record["attribution"] for record in both.records} == {"Drawings by A (CC BY 4.0); Captions by B"}
    assert "attribution" not in sample("none", CAPTIONS[0]).records[0]


def same(a, b) -> bool:
    """To the rounding of one in 255 somewhere: convolutions round otherwise in batches of another size."""
    difference = (a.images().int() - b.images().int()).abs()
    return bool(difference.max() <= 1 and (difference > 0).float().mean() < 1e-3)


def test_one_caption(sample, stored_run):
    folder = sample("a", CAPTIONS[0], "-n", "3", "--seed", "5", "--condition", "text_embedding", "--batch-size", "2")
    assert folder.size == (32, 32)
    assert (folder.captions, folder.caption_index.tolist()) == ([CAPTIONS[0]] * 3, [0, 0, 0])
    assert [record["sample_index"] for record in folder.records] == [0, 1, 2]
    quick = UnCLIP(stored_run, overrides={"decoder": {"steps": 1}, "upsampler": {"steps": 1}})
    drawn = quick.generate([CAPTIONS[0]] * 3, "text_embedding", 5, [(0, k) for k in range(3)])
    expected = ((drawn + 1) / 2 * 255).round().to(torch.uint8)
    assert (folder.images().int() - expected.int()).abs().max() <= 1
    assert len({record["sha256"] for record in folder.records}) == 3
    with Image.open(folder.path / "grid.png") as grid:
        assert np.asarray(grid).std() > 0


def test_the_same_seed_draws_the_same_pictures_at_any_batch_size(sample, captions):
    words = ["--captions", captions, "-n", "2", "--condition", "diffusion_prior"]
    base = sample("a", *words)
    assert base.captions == [caption for caption in CAPTIONS for _ in range(2)]
    assert base.caption_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(base.images(), sample("again", *words).images())
    assert same(base, sample("b", *words, "--batch-size", "1"))
    assert same(base, sample("c", *words, "--batch-size", "4"))
    assert not same(base, sample("d", *words, "--seed", "1"))


def test_a_captions_pictures_do_not_depend_on_what_else_is_asked(sample, tmp_path):
    """Neither on the order of a manifest's captions nor on how many of them there are or samples of each."""
    lines = [
        {"file": "x", "caption": CAPTIONS[k], "caption_index": k, "sample_index": 0, "condition": "real"}
        for k in range(3)
    ]
    files = {}
    for name, order in {"all": [0, 1, 2], "turned": [2, 0], "one": [2]}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(lines[k]) + "\n" for k in order))
    base, turned, one = (sample(f"from_{name}", "--captions", files[name]).images().int() for name in files)
    assert (turned - base[[2, 0]]).abs().max() <= 1
    assert (one - base[[2]]).abs().max() <= 1
    two = sample("two", "--captions", files["one"], "-n", "2").images().int()
    assert (two[:1] - one).abs().max() <= 1


@pytest.mark.parametrize("condition", THERE)
def test_every_condition_says_how_it_was_made(sample, real, condition):
    folder = sample(condition, "--captions", real / "manifest.jsonl", "-n", "2", "--condition", condition)
    truth = SampleFolder.open(real)
    assert folder.captions == truth.captions
    assert folder.condition == condition
    for key in ("mentioned", "held_out"):
        assert [record[key] for record in folder.records] == [record[key] for record in truth.records]
    assert "scene" not in folder.records[0]  # That was the real picture's.
    record = folder.records[0]
    guidance = {"decoder": 1.0 if condition == "glide" else 2.0}
    sampler = {"decoder": "dpm_solver_pp", "upsampler": "dpm_solver_pp"}
    steps = {"decoder": 1, "upsampler": 1}
    if condition in ("dalle", "dvae_reconstruction"):
        guidance, sampler, steps = {}, {"upsampler": "dpm_solver_pp"}, {"upsampler": 1}
    if condition == "dalle":
        guidance["prior"] = 1.0
    if condition in ("ar_prior", "diffusion_prior"):
        guidance["prior"] = 1.5
    if condition == "diffusion_prior":
        sampler["prior"], steps["prior"] = "analytic_dpm", 4
    assert (record["guidance"], record["sampler"], record["steps"]) == (guidance, sampler, steps)
    assert len(record["config_hash"]) == 12
    assert record["seed"] == 0
    assert "commit" in record


@pytest.mark.parametrize(("n", "of"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 0])])
def test_a_true_embedding_is_that_of_the_samples_own_picture(real, stored_run, tmp_path, capsys, n, of):
    """Sample k is given real picture k of its caption; where there are fewer, in turn, which is said."""
    words = ["--captions", str(real / "manifest.jsonl"), "-n", str(n), "--condition", "image_embedding"]
    out = ["--no-upsample", "--out", str(tmp_path / "a"), "--batch-size", "3", *QUICK]
    assert main(["sample", "--run", str(stored_run), *words, *out]) == 0
    said = "4 of 4 captions have fewer than 3 true images: these are taken in turn"
    assert (said in capsys.readouterr().out) == (n == 3)
    folder, source = SampleFolder.open(tmp_path / "a"), SampleFolder.open(real)
    truth = source.images().float() / 127.5 - 1
    chosen = [2 * caption + k for caption in range(4) for k in of]
    quick = UnCLIP(stored_run, overrides={"decoder": {"steps": 1}})
    places = [(caption, k) for caption in range(4) for k in range(n)]
    drawn = quick.generate(folder.captions, "image_embedding", 0, places, truth[chosen], upsample=False)
    assert (folder.images().float() / 127.5 - 1 - drawn).abs().max() < 0.01
    assert [record["true_image"] for record in folder.records] == [source.records[k]["file"] for k in chosen]
    assert folder.size == (16, 16)


@pytest.mark.parametrize(
    "words", [["gallery", "RUN", "--only", "variations"], ["sample", "a circle"], ["invert", "x.png"]]
)
def test_the_accelerator_is_taken_where_there_is_one(stored_run, tmp_path, monkeypatch, capsys, words):
    """Without --device every command that draws asks for the machine's own; here it is one that does not exist."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    asked = []
    monkeypatch.setattr(UnCLIP, "__init__", lambda self, run, device="cpu", *rest: asked.append(device) or sys.exit(3))
    words = [str(stored_run) if word == "RUN" else word for word in words]
    words += [] if words[0] == "gallery" else ["--run", str(stored_run), "--out", str(tmp_path / "a")]
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="3"):
        main(words)
    assert asked == [torch.device("meta")]


def test_images_of_a_caption_are_ordered_by_their_sample():
    places = [(7, 1), (3, 0), (7, 0), (7, 2)]
    lines = [{"caption_index": index, "sample_index": sample} for index, sample in places]
    assert images_of(lines) == {7: [2, 0, 3], 3: [1]} and list(images_of(lines)) == [7, 3]


def test_options_change_what_they_name(sample, captions):
    words = ["--captions", captions, "--condition", "ar_prior", "--no-upsample"]
    base = sample("base", *words)
    changes = {
        "prior": ("--prior-guidance", "4"),
        "decoder": ("--decoder-guidance", "4"),
        "sampler": ("--decoder-sampler", "ddpm", "--decoder-steps", "3"),
    }
    records = {}
    for name, change in changes.items():
        folder = sample(name, *words, *change)
        assert not same(base, folder), name
        records[name] = folder.records[0]
    assert records["prior"]["guidance"] == {"decoder": 2.0, "prior": 4.0}
    assert records["decoder"]["guidance"] == {"decoder": 4.0, "prior": 1.5}
    assert (records["sampler"]["sampler"]["decoder"], records["sampler"]["steps"]["decoder"]) == ("ddpm", 3)
    hashes = {record["config_hash"] for record in [base.records[0], *records.values()]}
    assert len(hashes) == 4


def test_the_config_hash_knows_the_condition_and_every_stage_that_took_part(sample, stored_run, tiny, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stored_run, run)

    def digest(condition, name):
        return sample(name, CAPTIONS[0], "--condition", condition, run=run).records[0]["config_hash"]

    conditions = ("caption_only", "text_embedding", "linear_prior", "glide")
    first = {condition: digest(condition, condition) for condition in conditions}
    assert len(set(first.values())) == len(conditions)
    assert digest("linear_prior", "again") == first["linear_prior"]
    for stage, change in {"linear_prior": {"linear_prior"}, "decoder": {"linear_prior", "caption_only"}}.items():
        tiny.write_stage(run / stage, stage, tiny.randomise(tiny.make_network(stage), seed=77))
        for condition in ("linear_prior", "caption_only", "glide"):
            now = digest(condition, f"{stage}-{condition}")
            assert (now != first[condition]) == (condition in change), (stage, condition)
        tiny_first = {condition: digest(condition, f"{stage}-{condition}-2") for condition in first}
        first = tiny_first


def test_pictures_of_genevals_prompts_lie_as_its_program_reads_them(sample, stored_run, tmp_path, capsys):
    """Each prompt's folder holds its metadata and its pictures; what is no prompt of GenEval's is refused at once."""
    rows = [
        {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": c}], "prompt": f"a small {c} circle"}
        for c in ("red", "blue")
    ]
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("-n", "2", "--condition", "text_embedding", "--geneval", tmp_path / "layout")
    folder = sample("a", "--captions", prompts, *words)
    for k, row in enumerate(rows):
        place = tmp_path / "layout" / f"{k:05d}"
        assert json.loads((place / "metadata.jsonl").read_text()) == row
        assert sorted(path.name for path in (place / "samples").iterdir()) == ["0000.png", "0001.png"]
        for n in range(2):
            with Image.open(place / "samples" / f"{n:04d}.png") as picture:
                expected = folder.images(2 * k + n, 2 * k + n + 1)[0].permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(np.asarray(picture), expected)
    again = ["sample", "--run", str(stored_run), "--out", str(tmp_path / "b"), *map(str, words)]
    assert main([*again, "--captions", str(prompts)]) == 2
    assert "layout is there already" in capsys.readouterr().err
    assert main([*again[:-1], str(tmp_path / "new"), CAPTIONS[0]]) == 2
    assert "has no metadata of GenEval" in capsys.readouterr().err
    assert not (tmp_path / "b").exists() and not (tmp_path / "new").exists()


def test_a_folder_is_replaced_only_when_told(sample, stored_run, tmp_path, capsys):
    before = sample("a", CAPTIONS[0], "--condition", "caption_only")
    content = (tmp_path / "a" / "manifest.jsonl").read_text()
    words = ["sample", CAPTIONS[1], "--run", str(stored_run), "--condition", "caption_only", *QUICK]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "a is not empty; choose another folder or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "a" / "manifest.jsonl").read_text() == content
    assert same(before, SampleFolder.open(tmp_path / "a"))
    assert main([*words, "--out", str(tmp_path / "a"), "--overwrite"]) == 0
    assert SampleFolder.open(tmp_path / "a").captions == [CAPTIONS[1]]


def test_words_that_the_model_does_not_know_are_named(stored_run, tmp_path, capsys):
    words = ["--run", str(stored_run), "--out", str(tmp_path / "a"), "--condition", "caption_only", *QUICK]
    assert main(["sample", "a crimson circle", *words]) == 0
    captured = capsys.readouterr()
    assert "the model does not know 'crimson'" in captured.err
    assert captured.out == f"{Path(tmp_path, 'a')}: 1 picture of 1 caption, condition caption_only\n"


def test_progress_counts_pictures(sample, captions, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_PROGRESS", str(tmp_path / "progress.json"))
    sample("a", "--captions", captions, "-n", "2", "--condition", "caption_only", "--batch-size", "4")
    state = json.loads((tmp_path / "progress.json").read_text())
    assert (state["label"], state["done"], state["total"]) == ("sampling caption_only", 6, 6)


def test_pictures_of_every_size_that_a_chain_of_upsamplers_reaches(sample, chained_run):
    """The manifest names each upsampler that took part, and --upsampler-steps is of each."""
    quick = {name: {"steps": 1} for name in ("decoder", "upsampler_256", "upsampler_1024")}
    system = UnCLIP(chained_run, overrides=quick)
    words = [CAPTIONS[0], "--condition", "text_embedding"]
    for size, taken in ((64, ["upsampler_256", "upsampler_1024"]), (32, ["upsampler_256"]), (16, [])):
        folder = sample(f"at {size}", *words, *([] if size == 64 else ["--size", str(size)]), run=chained_run)
        expected = system.generate(CAPTIONS[:1], "text_embedding", size=size)
        assert folder.size == (size, size)
        assert (folder.images().int() - ((expected + 1) * 127.5).round().int()).abs().max() <= 1
        (record,) = folder.records
        assert record["steps"] == {"decoder": 1, **dict.fromkeys(taken, 1)}
        assert record["guidance"] == {"decoder": 2.0}


def test_sizes_that_no_stage_reaches_are_refused_before_any_work(chained_run, tmp_path, capsys):
    for words, message in (
        (["--size", "48"], "makes pictures of 16, 32, 64 pixels a side, not of 48"),
        (["--size", "32", "--no-upsample"], "--size and --no-upsample exclude each other"),
    ):
        assert main(["sample", CAPTIONS[0], "--run", str(chained_run), "--out", str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_decoders_draws(stored_run, sample, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stored_run, run)
    shutil.copytree(run / "glide", run / "mine" / "parts" / "2")
    words = (CAPTIONS[0], "--condition", "glide", "--no-upsample")
    own, mine = sample("own", *words, run=run), sample("mine", *words, "--decoder", "mine/parts/2", run=run)
    assert np.array_equal(own.images(0, 1), mine.images(0, 1))
    assert (own.records[0].get("decoder"), mine.records[0]["decoder"]) == (None, "mine/parts/2")
    assert own.records[0]["config_hash"] != mine.records[0]["config_hash"]
    assert main(["sample", *words, "--run", str(run), "--out", str(tmp_path / "x"), "--decoder", "yours"]) == 2
    assert "holds no trained yours" in capsys.readouterr().err
