"""`unclip embed` as a person runs it: two processes write what one does, and a run that was killed goes on."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.trials.forked import Forked
from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import open_embeddings
from datamodules.shapes import ShapesDataModule

ROOT = Path(__file__).parents[3]
SIZES = {"image_size": 16, "train_size": 60, "val_size": 12, "test_size": 8}
WORDS = ("--shard-rows", "16", "--batch-size", "5", "--device", "cpu", "--token-features", "--splits", "train", "val")

# `unclip`, killed by SIGKILL when two of the files of shard 1 have their names and the others do not.
KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.cli import main
rename = Path.replace

def replace(path, target):
    renamed = rename(path, target)
    if Path(target).name == "text_emb_1.npy":
        os.kill(os.getpid(), signal.SIGKILL)
    return renamed

Path.replace = replace
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def data(tmp_path):
    sizes = ", ".join(f"{key}: {value}" for key, value in SIZES.items())
    (tmp_path / "data.yaml").write_text(
        f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {{{sizes}, cache_dir: null}}}}"
    )
    return tmp_path / "data.yaml"


def start(data, clip, out, *more, program=None):
    words = ["embed", str(data), "--clip", str(clip), "--out", str(out), *WORDS, *more]
    # One thread each, or sums are rounded otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    said = [data.parent / f"{out.name}.{kind}.txt" for kind in ("out", "errors")]
    for path in said:
        path.unlink(missing_ok=True)
    return Forked(words, data.parent, environment, *said, program)


def finish(process):
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(folder, number):
    """The files of a shard: kind -> (inode, time of writing), which stay as they are unless the file is made anew."""
    stats = {path.parent.name: path.stat() for path in folder.glob(f"*/[!.]*_{number}.*")}
    return {kind: (stat.st_ino, stat.st_mtime_ns) for kind, stat in stats.items()}


@pytest.mark.timeout(1800)
def test_two_processes_and_a_killed_run_write_what_one_run_does(data, tmp_path, clip_folder):
    two = start(data, clip_folder, tmp_path / "two", "--devices", "2", "--strategy", "ddp")
    said = finish(two)
    assert said.count("train: 60 rows of 16 written") == 1  # Not once for each process.
    finish(start(data, clip_folder, tmp_path / "one"))
    one = contents(tmp_path / "one")
    assert len([name for name in one if name.startswith("train/img_emb")]) == 4
    assert contents(tmp_path / "two") == one

    (tmp_path / "killed.py").write_text(KILLED)
    killed = start(data, clip_folder, tmp_path / "killed", program=tmp_path / "killed.py")
    _, error = killed.communicate(timeout=400)
    assert killed.returncode == -signal.SIGKILL, error
    first, second = (written(tmp_path / "killed/.train.partial", number) for number in range(2))
    assert first.keys() >= {"img_emb", "text_emb", "tokens", "token_features"}
    assert second.keys() - {"metadata"} == {"img_emb", "text_emb"}  # so this shard has to be made again
    finish(start(data, clip_folder, tmp_path / "killed"))
    assert contents(tmp_path / "killed") == one
    assert written(tmp_path / "killed/train", 0) == first  # the shard that was whole is not written again
    again = written(tmp_path / "killed/train", 1)
    assert not any(again[kind] == state for kind, state in second.items())

    rows = open_embeddings(tmp_path / "one").rows("train", 60, token_features=True)[range(60)]
    truth = ShapesDataModule(**SIZES, cache_dir=None)
    assert EmbeddingsDataModule(str(tmp_path / "one")).captions("train") == truth.captions("train")
    from modules.clip.frozen import FrozenCLIP

    clip = FrozenCLIP(str(clip_folder))
    with torch.no_grad():
        z_i = clip.encode_image(truth.dataset("train").__getitems__(range(60)).images)
        features = clip.encode_tokens(rows.tokens) * (rows.tokens != 0)[..., None]
    assert torch.allclose(rows.z_i, z_i, atol=1e-6)
    assert torch.allclose(rows.features, features, atol=2e-3)
    assert np.load(tmp_path / "one/train/token_features/token_features_3.npy").dtype == np.float16
