"""What a person may get wrong: one line that names the thing and the way out, exit code 2, and nothing overwritten."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import main

CAPTION = "a small red circle"
LONG = "red " * 30


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that has to be refused; gives its one line."""
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)

    def refused(*words, within: Path = tmp_path) -> str:
        before = snapshot(within)
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("unclip: ")
        assert "Traceback" not in captured.err + captured.out
        after = snapshot(within)
        assert after == before, sorted({*before} ^ {*after})
        return lines[0]

    return refused


@pytest.fixture
def there(tmp_path, stored_run):
    """Files and folders of all kinds, in the way of things."""
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "long.txt").write_text(f"{CAPTION}\n{LONG}\n")
    (tmp_path / "broken.jsonl").write_text('{"caption": \n')
    (tmp_path / "other.jsonl").write_text('{"words": "a"}\n')
    (tmp_path / "numbers.jsonl").write_text("1\n")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"caption": CAPTION, "caption_index": 0}) + "\n")
    (tmp_path / "untold.jsonl").write_text(json.dumps({"caption": None, "caption_index": 0}) + "\n")
    (tmp_path / "named.jsonl").write_text(json.dumps({"caption": CAPTION, "caption_index": "a"}) + "\n")
    twice = [{"caption": CAPTION, "caption_index": 3}] * 2 + [{"caption": "a large blue square", "caption_index": 3}]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(record) + "\n" for record in twice))
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("years of work")
    for name in ("clip", "decoder"):
        shutil.copytree(stored_run / name, tmp_path / "partial" / name)
    return tmp_path


SAMPLE = {
    "a caption file that is missing": (["--captions", "none.txt"], "no such file or folder: 'none.txt'"),
    "a caption file that is a folder": (["--captions", "folder"], "'folder'"),
    "a caption file that is not text": (["--captions", "binary.txt"], "binary.txt is not a text file in UTF-8"),
    "a caption file without captions": (["--captions", "empty.txt"], "empty.txt holds no caption: write one a line"),
    "a manifest that is damaged": (["--captions", "broken.jsonl"], "broken.jsonl is not a manifest of samples"),
    "a manifest of something else": (["--captions", "other.jsonl"], "other.jsonl is not a manifest of samples"),
    "a manifest of numbers": (["--captions", "numbers.jsonl"], "numbers.jsonl is not a manifest of samples"),
    "a caption that is no text": (
        ["--captions", "untold.jsonl"],
        "untold.jsonl: record 1 has the caption None and the caption_index 0: a text that is not empty and a whole",
    ),
    "a caption_index that is no number": (["--captions", "named.jsonl"], "and the caption_index 'a': a text that"),
    "two captions with one caption_index": (
        ["--captions", "twice.jsonl"],
        "twice.jsonl: two captions have the caption_index 3, 'a small red circle' and 'a large blue square': number",
    ),
    "an empty caption": ([""], "the caption is empty: say what to draw"),
    "a blank caption": ([" \t"], "the caption is empty: say what to draw"),
    "an option that there is not": ([CAPTION, "--magic"], "sample: unrecognized arguments: --magic; `unclip sample --"),
    "no caption": ([], "give one caption, or a file of them with --captions"),
    "two sources of captions": ([CAPTION, "--captions", "captions.jsonl"], "give one caption, or a file"),
    "a caption that is too long": ([LONG], "the caption has 30 words, the model's context holds 19: shorten 'red red"),
    "a long caption in a file": (["--captions", "long.txt"], "the caption has 30 words, the model's context holds 19"),
    "an unknown condition": ([CAPTION, "--condition", "magic"], "unknown condition 'magic'; there are caption_only"),
    "an output that is a file": ([CAPTION, "--out", "empty.txt"], "empty.txt is a file; choose another folder"),
    "an output that is not empty": ([CAPTION, "--out", "mine"], "mine is not empty; choose another folder or pass"),
    "an output that holds other things": (
        [CAPTION, "--out", "mine", "--overwrite"],
        "mine holds thesis.docx, which is no part of a sample folder; choose another folder",
    ),
    "an output below a file": ([CAPTION, "--out", "empty.txt/a"], "empty.txt"),
    "a run that is missing": ([CAPTION, "--run", "nowhere"], "no run folder nowhere: train one with"),
    "a run that is a file": ([CAPTION, "--run", "empty.txt"], "no run folder empty.txt"),
    "a run without the prior": (
        [CAPTION, "--run", "partial", "--no-upsample"],
        "the run partial holds no trained diffusion_prior, which --condition diffusion_prior needs: train it",
    ),
    "a run without the upsampler": (
        [CAPTION, "--run", "partial", "--condition", "caption_only"],
        "holds no trained upsampler, which --condition caption_only needs: train it, or choose another condition or "
        "run, or pass --no-upsample",
    ),
    "a run without anything": ([CAPTION, "--run", "folder"], "the run folder holds no trained decoder"),
    "true embeddings without pictures": (
        [CAPTION, "--condition", "image_embedding"],
        "the condition image_embedding needs true images: pass --captions DIR/manifest.jsonl",
    ),
    "true embeddings from captions alone": (
        ["--captions", "captions.jsonl", "--condition", "image_embedding"],
        "the condition image_embedding needs true images",
    ),
    "no pictures": ([CAPTION, "-n", "0"], "-n and --batch-size must be 1 or more, got 0"),
    "a batch of none": ([CAPTION, "--batch-size", "0"], "-n and --batch-size must be 1 or more, got 1 and 0"),
    "no steps": ([CAPTION, "--decoder-steps", "0"], "decoder: steps must be a whole number from 1 to 10,000, found 0"),
    "too many steps": ([CAPTION, "--upsampler-steps", "2000"], "upsampler: cannot take 2000 steps of a schedule"),
    "steps without statistics": ([CAPTION, "--prior-steps", "7"], "analytic_dpm has statistics"),
    "a device that is not here": ([CAPTION, "--device", "toaster"], "--device toaster: not available here"),
}


@pytest.mark.parametrize("case", SAMPLE)
def test_sample(there, stored_run, refused, monkeypatch, case):
    words, message = SAMPLE[case]
    monkeypatch.chdir(there)
    defaults = {"--run": stored_run, "--out": "out"}
    words = [*words, *(word for key, value in defaults.items() if key not in words for word in (key, value))]
    assert message in refused("sample", *words)
    assert not (there / "out").exists()


DAMAGE = {
    "decoder/export/model.safetensors": "decoder/export is damaged",
    "decoder/export/config.yaml": "decoder/export is damaged",
    "clip/export/open_clip_model.safetensors": "the CLIP",
    "clip/export/open_clip_config.json": "open_clip_config.json is not JSON",
    "clip/export/vocabulary.json": "vocabulary.json is damaged",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("content", [b"damaged", b""])
def test_damaged_weights(there, refused, name, content):
    (there / "partial" / name).write_bytes(content)
    words = ["--run", there / "partial", "--condition", "text_embedding", "--no-upsample", "--out", there / "out"]
    assert DAMAGE[name] in refused("sample", CAPTION, *words)


def test_a_decoder_of_another_clip(there, tiny, refused, monkeypatch):
    shutil.rmtree(there / "partial" / "clip")
    monkeypatch.setitem(tiny.CLIP, "embed_dim", 8)
    tiny.write_clip(there / "partial" / "clip")
    words = ["--run", there / "partial", "--condition", "text_embedding", "--no-upsample", "--out", there / "out"]
    line = refused("sample", CAPTION, *words)
    assert "the run's decoder was trained on embeddings of 16 dimensions, and the run's CLIP gives 8" in line


def test_a_clip_of_the_same_sizes_that_is_another(there, tiny, refused):
    """Other weights, then the right weights with other words: what training recorded covers both."""
    clip = there / "partial" / "clip"
    vocabulary = clip / "export" / "vocabulary.json"
    words = ["--run", there / "partial", "--condition", "text_embedding", "--no-upsample", "--out", there / "out"]
    content = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps({**content, "words": content["words"][::-1]}))
    swapped = refused("sample", CAPTION, *words)
    tiny.write_clip(clip, seed=5)
    for line in (swapped, refused("sample", CAPTION, *words)):
        assert "the run's decoder was trained on embeddings of the CLIP" in line
        assert "but the run has the CLIP" in line


@pytest.fixture
def full_disk(monkeypatch):
    """No picture can be written."""

    def write(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_full_disk(there, stored_run, refused, full_disk):
    words = ["--run", stored_run, "--condition", "caption_only", "--decoder-steps", "1", "--no-upsample"]
    line = refused("sample", CAPTION, *words, "--out", there / "out")
    assert f"cannot write {there / 'out'}: No space left on device; free space or choose another folder" in line
    assert not list(there.glob(".out*"))


def test_a_disk_that_is_really_full(stored_run, small_disk):
    out = small_disk.path / "out"
    stages = ["--run", str(stored_run), "--condition", "caption_only", "--decoder-steps", "1", "--no-upsample"]
    words = ["sample", CAPTION, "-n", "8", "--batch-size", "2", *stages, "--out", str(out)]
    done = small_disk("20k", lambda: main(words))
    lines = done.error.splitlines()
    assert lines[-1] == f"unclip: cannot write {out}: No space left on device; free space or choose another folder"
    assert all(re.fullmatch(r"\d of 8 pictures are finished; the same command with --resume .*", x) for x in lines[:-1])
    assert done.code == 2
    # What was finished is kept beside the folder, and nothing half written.
    assert not [name for name in done.files if ".partial" in name or name.startswith(str(out))]


@contextlib.contextmanager
def nobody():
    """Rights as those of an ordinary user, whoever runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_config_without_permission_is_named(locked, refused):
    (locked.parent / "secret.yaml").write_text("a: 1")
    (locked.parent / "secret.yaml").chmod(0)
    with nobody():
        line = refused("fit", "--config", locked.parent / "secret.yaml", within=locked)
    assert line.endswith("secret.yaml' cannot be read: Permission denied")


@pytest.fixture
def locked():
    """A folder that may be read but not written to, wherever temporary folders are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "locked").mkdir(mode=0o555)
        folder.chmod(0o755)
        yield folder / "locked"
        (folder / "locked").chmod(0o755)


def test_no_permission_to_write_samples(locked, stored_run, refused):
    with nobody():
        line = refused("sample", CAPTION, "--run", stored_run, "--out", locked / "a" / "b", within=locked)
    assert f"no permission in {locked}; choose another folder" in line


STAGE = """
seed_everything: 0
trainer: {{accelerator: cpu, max_steps: 1, val_check_interval: 1, limit_val_batches: 1, default_root_dir: {root}}}
model:
  class_path: modules.linear_prior.LinearPrior
  init_args:
    network: {{class_path: modules.networks.priors.linear_prior.LinearPriorNetwork, init_args: {{embedding_dim: 16}}}}
data:
  class_path: datamodules.embeddings.EmbeddingsDataModule
  init_args: {{folder: {embeddings}, batch_size: 8}}
"""


@pytest.fixture
def stage(tmp_path, embeddings):
    """Writes a small stage's YAML."""

    def write(root="run/linear_prior", folder=embeddings, **changes):
        config = yaml.safe_load(STAGE.format(root=tmp_path / root, embeddings=folder))
        config["trainer"].update(changes)
        (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
        return tmp_path / "stage.yaml"

    return write


def test_fit_without_its_embeddings(stage, tmp_path, refused):
    assert "nowhere" in refused("fit", "--config", stage(folder=tmp_path / "nowhere"), within=tmp_path / "none")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_fit_in_the_run_folder_of_another_config(stage, tmp_path, refused, capsys):
    assert main(["fit", "--config", str(stage())]) == 0
    other = stage(max_steps=2)
    line = refused("fit", "--config", other, "--ckpt_path", "last")
    assert "holds a run of another config (trainer.max_steps: 1 -> 2); choose another trainer.default_root_dir" in line
    assert "holds a run of this config already; go on with --ckpt_path last" in refused("fit", "--config", stage())
    (tmp_path / "run/linear_prior/checkpoints/last.ckpt").write_bytes(b"damaged")
    assert "last.ckpt' cannot be read" in refused(
        "fit", "--config", stage(), "--ckpt_path", "last", within=tmp_path / "x"
    )
    assert "checkpoint 'none.ckpt' does not exist" in refused("fit", "--config", stage(), "--ckpt_path", "none.ckpt")


def test_no_permission_to_train(locked, stage, refused, embeddings):
    config = locked.parent / "stage.yaml"
    config.write_text(stage().read_text().replace(str(stage().parent / "run"), str(locked / "run")))
    config.chmod(0o644)
    copied = locked.parent / "embeddings"
    shutil.copytree(embeddings, copied)
    config.write_text(config.read_text().replace(str(embeddings), str(copied)))
    for path in [copied, *copied.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with nobody():
        line = refused("fit", "--config", config, within=locked)
    assert f"no permission for '{locked / 'run'}" in line


def test_a_full_disk_at_the_export(stage, tmp_path, capsys, monkeypatch):
    def full(state, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("modules.training.stage.write_weights", full)
    assert main(["fit", "--config", str(stage())]) == 2
    error = capsys.readouterr().err
    assert "disk full while writing" in error and "model.safetensors" in error and error.count("\n") == 1
    monkeypatch.undo()
    # Nothing is lost: the same command goes on from the checkpoint and exports.
    assert main(["fit", "--config", str(stage()), "--ckpt_path", "last"]) == 0
    assert (tmp_path / "run/linear_prior/export/model.safetensors").exists()


DATA = "{{class_path: datamodules.shapes.ShapesDataModule, init_args: {{image_size: 16, {sizes}, cache_dir: null}}}}"


@pytest.fixture
def data(tmp_path, tiny):
    (tmp_path / "data.yaml").write_text(
        "data: " + DATA.format(sizes=", ".join(f"{k}: {v}" for k, v in tiny.SIZES.items()))
    )
    return tmp_path / "data.yaml"


def test_embed(data, tmp_path, refused, clip_folder, tiny):
    words = ["embed", "--config", data, "--out", tmp_path / "e"]
    assert f"no CLIP at {tmp_path / 'none'}: train one" in refused(*words, "--clip", tmp_path / "none")
    assert "does not exist" in refused("embed", "--config", "none.yaml", "--clip", clip_folder, "--out", tmp_path / "e")
    damaged = tiny.write_clip(tmp_path / "clip")
    (damaged / "open_clip_model.safetensors").unlink()
    assert "can't be loaded" in refused(*words, "--clip", damaged)


def test_the_command_writes_what_the_clip_says(data, tmp_path, clip_folder, shapes):
    """The only test of `unclip embed` with a CLIP that is one."""
    from datamodules.embeddings.folder import open_embeddings
    from modules.clip.frozen import FrozenCLIP

    words = ["--config", str(data), "--clip", str(clip_folder), "--out", str(tmp_path / "e"), "--device", "cpu"]
    assert main(["embed", *words, "--splits", "val"]) == 0
    clip, rows = FrozenCLIP(str(clip_folder)), open_embeddings(tmp_path / "e").rows("val")[range(12)]
    batch = shapes(embeddings=None).dataset("val").__getitems__(range(12))
    torch.testing.assert_close(rows.z_i, clip.encode_image(batch.images), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.z_t, clip.encode_text(clip.tokenize(batch.captions)), atol=1e-5, rtol=0)
    assert open_embeddings(tmp_path / "e").info.clip_fingerprint == clip.fingerprint


def test_probe(data, tmp_path, refused, embeddings):
    words = ["probe", "--config", data, "--embeddings"]
    assert "nowhere" in refused(*words, tmp_path / "nowhere", "--out", tmp_path / "probe.json")
    (tmp_path / "folder" / "probe.json").mkdir(parents=True)
    assert "probe.json" in refused(*words, embeddings, "--out", tmp_path / "folder" / "probe.json")
