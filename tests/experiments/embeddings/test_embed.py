"""`unclip embed`: the embeddings are the CLIP's, row by row, and a second call computes nothing."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from datamodules.captions import CaptionConfig
from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import open_embeddings
from datamodules.embeddings.split import SplitFiles
from datamodules.faults import Fault, FaultPolicy
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import SplitConfig
from datamodules.rendered.pairs import ImageTextDataset
from datamodules.shapes import ShapesDataModule
from experiments.cli import main
from experiments.data.sources import load_data
from experiments.embeddings.embed import embed
from modules import shipped
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError


class FakeCLIP:
    """Deterministic, cheap, and it counts."""

    def __init__(self, fingerprint="fake-1", dim=5):
        self.fingerprint, self.dim, self.seen = fingerprint, dim, []

    def tokenize(self, captions):
        tokens = torch.zeros(len(captions), 12, dtype=torch.int64)
        for row, caption in enumerate(captions):
            words = [1 + sum(map(ord, word)) % 97 for word in caption.split()][:12]
            tokens[row, : len(words)] = torch.tensor(words)
        return tokens

    def encode_image(self, images):
        assert images.min() >= -1
        self.seen.append(len(images))
        return normalize(images.mean(dim=(2, 3)) @ torch.linspace(-1, 2, 3 * self.dim).view(3, -1).sin() + 0.1, dim=1)

    def encode_text(self, tokens):
        weights = torch.linspace(0, 3, 12 * self.dim).view(12, -1).cos()
        return normalize(tokens.float() @ weights + 0.1, dim=1)

    def encode_tokens(self, tokens):
        return torch.stack([(tokens + 1).float() / 100, tokens.float().cumsum(1).sin()], dim=2)


def shapes(**sizes):
    return ShapesDataModule(
        **{"image_size": 8, "train_size": 23, "val_size": 5, "test_size": 6, **sizes}, cache_dir=None
    )


def test_every_row_is_what_the_clip_says_of_that_pair(tmp_path):
    data, clip = shapes(), FakeCLIP()
    embed(data, clip, tmp_path / "e", batch_size=7, source={"clip": "here"})
    folder = open_embeddings(tmp_path / "e")
    assert folder.info.sizes == {"train": 23, "val": 5, "test": 6}
    assert (folder.info.clip_fingerprint, folder.info.dim, folder.info.context) == ("fake-1", 5, 12)
    assert folder.info.source == {"clip": "here"}
    for split in ("train", "val", "test"):
        rows = folder.rows(split, data.size(split), data.data_hash(split))[range(data.size(split))]
        pairs = data.dataset(split).__getitems__(range(data.size(split)))
        tokens = clip.tokenize(pairs.captions)
        assert torch.equal(rows.tokens, tokens)
        assert torch.allclose(rows.z_t, clip.encode_text(tokens), atol=1e-6)
        assert torch.allclose(rows.z_i, clip.encode_image(pairs.images), atol=1e-6)


def test_a_shipped_clip_is_named_by_its_name(stored_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    for stage in ("clip", "decoder"):
        shutil.copytree(stored_run / stage / "export", tmp_path / "tiny" / stage)
    config = tmp_path / "data.yaml"
    sizes = "image_size: 8, batch_size: 4, train_size: 6, val_size: 2, test_size: 2, cache_dir: null"
    config.write_text(f"data:\n  class_path: datamodules.shapes.ShapesDataModule\n  init_args: {{{sizes}}}\n")
    words = ["embed", "--config", str(config), "--device", "cpu", "--clip"]
    rows = []
    for name, clip in (("a", "shipped:tiny"), ("b", str(stored_run / "clip"))):
        assert main([*words, clip, "--out", str(tmp_path / name)]) == 0
        folder = open_embeddings(tmp_path / name)
        rows.append(folder.rows("train")[range(6)])
        assert folder.info.source["clip"] == (clip if name == "a" else str(stored_run / "clip" / "export"))
    assert torch.equal(rows[0].z_i, rows[1].z_i) and torch.equal(rows[0].z_t, rows[1].z_t)


def test_the_features_of_every_token_are_written_where_asked_for_and_padding_has_none(tmp_path):
    data, clip = shapes(), FakeCLIP()
    embed(data, clip, tmp_path, ["val"], token_features=True)
    folder = open_embeddings(tmp_path)
    rows = folder.rows("val", token_features=True)[range(5)]
    assert folder.info.features == 2
    tokens = clip.tokenize(data.captions("val"))
    expected = torch.where(tokens[..., None] != 0, clip.encode_tokens(tokens), 0.0)
    assert torch.allclose(rows.features, expected, atol=1e-3)
    assert (tokens == 0).any()
    with pytest.raises(InputError, match=r"--token-features of width 2, not None; name another folder"):
        embed(data, clip, tmp_path, ["val"])


def test_the_datamodule_takes_what_embed_wrote(tmp_path):
    embed(shapes(), FakeCLIP(), tmp_path / "e")
    data = ShapesDataModule(8, 4, 23, 5, 6, embeddings=str(tmp_path / "e"), cache_dir=None)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.embeddings.index, batch.index)
    # Embeddings may serve a decoder of another resolution.
    larger = ShapesDataModule(16, 4, 23, 5, 6, embeddings=str(tmp_path / "e"), cache_dir=None)
    assert larger.dataset("val")[0].embeddings.z_i.shape == (1, 5)


def test_a_second_call_looks_at_some_rows_and_adds_new_splits(tmp_path):
    embed(shapes(), FakeCLIP(), tmp_path, splits=["val"])
    again = FakeCLIP()
    embed(shapes(), again, tmp_path, splits=["val", "test"])
    assert again.seen == [5, 6]  # The rows of val that are compared with the CLIP, then test.
    assert open_embeddings(tmp_path).info.sizes == {"val": 5, "test": 6}


def test_an_interruption_costs_only_the_split_that_was_running(tmp_path):
    class Killed(FakeCLIP):
        def encode_image(self, images):
            if len(self.seen) == 4:
                raise KeyboardInterrupt
            return super().encode_image(images)

    with pytest.raises(KeyboardInterrupt):
        embed(shapes(), Killed(), tmp_path, splits=["val", "train"], batch_size=5)
    assert open_embeddings(tmp_path).info.sizes == {"val": 5}
    rest = FakeCLIP()
    embed(shapes(), rest, tmp_path, splits=["val", "train"], batch_size=5)
    assert rest.seen == [5, 5, 5, 5, 5, 3]  # First the rows that are compared with the CLIP.


def test_an_interruption_costs_only_the_shard_that_was_running(tmp_path):
    class Killed(FakeCLIP):
        def encode_image(self, images):
            if len(self.seen) == 5:
                raise RuntimeError("the machine is gone")
            return super().encode_image(images)

    with pytest.raises(RuntimeError, match="gone"):
        embed(shapes(), Killed(), tmp_path / "e", splits=["train"], batch_size=3, shard_rows=7)
    assert not (tmp_path / "e" / "embeddings.json").exists()
    rest = FakeCLIP()
    embed(shapes(), rest, tmp_path / "e", splits=["train"], batch_size=3, shard_rows=7)
    assert rest.seen == [3, 3, 1, 3, 3, 1, 2]  # Of the shards of 7, 7, 7 and 2, the second had begun.
    embed(shapes(), FakeCLIP(), tmp_path / "whole", splits=["train"], batch_size=3, shard_rows=7)
    assert contents(tmp_path / "e") == contents(tmp_path / "whole")


def contents(folder):
    """File -> bytes; all that is in an embeddings folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("place", ["FakeCLIP.encode_image", "SplitFiles.prepare"])
def test_signal_handlers_outlive_an_interruption(tmp_path, monkeypatch, place):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeCLIP if "CLIP" in place else SplitFiles, place.rpartition(".")[2], interrupted)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        embed(shapes(), FakeCLIP(), tmp_path, splits=["val"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_data_without_pictures_are_refused(tmp_path):
    embed(shapes(), FakeCLIP(), tmp_path / "e", splits=["val"])
    with pytest.raises(InputError, match="hold no pictures"):
        embed(EmbeddingsDataModule(str(tmp_path / "e")), FakeCLIP(), tmp_path / "again", splits=["val"])


class Unreadable(ImageTextDataset):
    """As the data of files are: pair 3 cannot be read, and pair 0 stands in its place."""

    def load(self, indices):
        wrong = [Fault("3.jpg", "truncated")] if 3 in indices else []
        batch = self.__getitems__([0 if index == 3 else index for index in indices])
        return batch, wrong

    def receive(self, batch, faults):
        self.counted = [*getattr(self, "counted", []), *faults]
        return batch


def test_a_pair_that_cannot_be_read_is_said_and_has_anothers_row(tmp_path, capsys):
    data = shapes()
    whole = data.dataset("val")
    data._datasets["val"] = broken = Unreadable(whole.images, whole.records, None)
    embed(data, FakeCLIP(), tmp_path, splits=["val"])
    assert "val: 1 pairs cannot be read; other pairs stand in their rows" in capsys.readouterr().out
    rows = open_embeddings(tmp_path).rows("val")[range(5)]
    assert torch.equal(rows.z_i[3], rows.z_i[0])
    assert torch.equal(rows.tokens[3], rows.tokens[0])
    assert broken.counted == [Fault("3.jpg", "truncated")]


def test_other_data_or_another_clip_are_refused_unless_told(tmp_path):
    embed(shapes(), FakeCLIP(), tmp_path, splits=["val", "test"])
    with pytest.raises(InputError, match=r"--clip of fingerprint fake-1, not fake-2.*--overwrite"):
        embed(shapes(), FakeCLIP("fake-2"), tmp_path)
    with pytest.raises(InputError, match=r"val embeddings of other data \(5 rows.*these \(4 rows"):
        embed(shapes(val_size=4), FakeCLIP(), tmp_path, splits=["val"])
    embed(shapes(val_size=4), FakeCLIP(), tmp_path, splits=["val"], overwrite=True)
    assert open_embeddings(tmp_path).info.sizes == {"val": 4, "test": 6}
    embed(shapes(), FakeCLIP("fake-2"), tmp_path, splits=["val"], overwrite=True)
    assert open_embeddings(tmp_path).info.sizes == {"val": 5}


def test_progress_counts_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_PROGRESS", str(tmp_path / "progress.json"))
    embed(shapes(), FakeCLIP(), tmp_path / "e", splits=["train"], batch_size=10)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert (state["label"], state["done"], state["total"]) == ("embedding train", 23, 23)


def test_bad_options_are_one_line(tmp_path, capsys):
    config = tmp_path / "stage.yaml"
    config.write_text("data: {class_path: datamodules.shapes.ShapesDataModule, init_args: {cache_dir: null}}")
    words = ["embed", "--config", str(config), "--clip", str(tmp_path / "none"), "--out", str(tmp_path / "e")]
    assert main([*words, "--batch-size", "0"]) == 2
    assert "--batch-size must be 1 or more" in capsys.readouterr().err
    assert main([*words, "--device", "toaster"]) == 2
    assert "--device toaster: not available here" in capsys.readouterr().err
    assert main([*words, "--shard-rows", "0"]) == 2
    assert "--shard-rows must be 1 or more" in capsys.readouterr().err
    assert main([*words, str(config)]) == 2
    assert "name the data: DATA" in capsys.readouterr().err
    assert main(["embed", "nowhere", "--clip", "x", "--out", "y"]) == 2
    assert "no CLIP at x" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    clip = FakeCLIP()
    with pytest.raises(InputError, match="file is a file"):
        embed(shapes(), clip, tmp_path / "file")
    assert clip.seen == []


def test_the_command_end_to_end(tmp_path, monkeypatch, capsys):
    class Loaded(FakeCLIP):
        image_size = 8

        def __init__(self, name, pretrained=None):
            super().__init__(f"weights of {name}")

    monkeypatch.setattr("modules.clip.frozen.FrozenCLIP", Loaded)
    config = tmp_path / "stage.yaml"
    sizes = "image_size: 8, train_size: 9, val_size: 5, test_size: 2"
    arguments = f"{{{sizes}, embeddings: {tmp_path / 'e'}, cache_dir: null}}"  # The folder that this makes.
    config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {arguments}}}")
    words = ["embed", "--config", str(config), "--clip", "here", "--out", str(tmp_path / "e"), "--device", "cpu"]
    assert main([*words, "--splits", "train", "val"]) == 0
    info = open_embeddings(tmp_path / "e").info
    assert (info.clip_fingerprint, info.sizes) == ("weights of here", {"train": 9, "val": 5})
    assert info.source["data"]["init_args"]["train_size"] == 9
    assert (info.source["clip"], info.source["image_size"]) == ("here", 8)
    assert main(words) == 0
    assert "train: 9 rows are there" in capsys.readouterr().out
    words = ["embed", str(config), *words[3:]]  # The YAML as DATA is the same.
    assert main(words) == 0
    assert "test: 2 rows are there" in capsys.readouterr().out
    assert load_data(config)[0].dataset("train")[2].embeddings.index.tolist() == [2]


def test_a_yaml_of_another_size_is_embedded_at_the_clips_size(tmp_path, clip_folder, capsys):
    """The CLIP sees 16 px: pictures of a stage of 8 px are not enlarged for it. --image-size says otherwise."""
    sizes, config = "train_size: 9, val_size: 5, test_size: 2, cache_dir: null", tmp_path / "stage.yaml"
    found = {}
    stage = tmp_path / "run" / "clip"
    shutil.copytree(clip_folder, stage / "export")
    clips = {"own": clip_folder, "other": stage, "asked": clip_folder}  # A stage's folder stands for the export in it.
    kept = ["--save-clip", str(tmp_path / "kept")]
    for name, side, words in (("own", 16, []), ("other", 8, kept), ("asked", 8, ["--image-size", "8"])):
        arguments = f"{{image_size: {side}, {sizes}}}"
        config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {arguments}}}")
        command = ["embed", str(config), "--clip", str(clips[name]), "--out", str(tmp_path / name), "--device", "cpu"]
        assert main([*command, "--splits", "train", *words]) == 0
        found[name] = np.asarray(open_embeddings(tmp_path / name).rows("train")[range(9)].z_i)
        said = "the CLIP is given pictures of its own 16 pixels, not of the config's 8" in capsys.readouterr().out
        assert said == (name == "other")
    assert np.array_equal(found["own"], found["other"]) and not np.allclose(found["own"], found["asked"])
    assert FrozenCLIP(str(tmp_path / "kept")).fingerprint == FrozenCLIP(str(clip_folder)).fingerprint


def test_a_folder_of_pictures_is_embedded_at_the_clips_size(tmp_path, clip_folder, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
        (folder / f"{k:02}.txt").write_text(f"a {'red' if k % 2 else 'blue'} circle")
    damaged = folder / "04.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    words = ["embed", str(folder), "--clip", str(clip_folder), "--out", str(tmp_path / "e"), "--device", "cpu"]
    assert main([*words, "--splits", "train", "--num-workers", "1"]) == 0
    assert "1 pairs cannot be read" in capsys.readouterr().out
    opened = open_embeddings(tmp_path / "e")
    assert opened.info.source["data"]["init_args"]["image_size"] == 16
    data = ImageFolderDataModule(str(folder), image_size=16)
    size = data.size("train")
    rows = opened.rows("train", size, data.data_hash("train"))[range(size)]
    clip = FrozenCLIP(str(clip_folder))
    batch = data.dataset("train").__getitems__(range(size))
    assert torch.allclose(rows.z_i, clip.encode_image(batch.images), atol=1e-5)
    assert torch.equal(rows.tokens, clip.tokenize(batch.captions))
    assert (batch.index != torch.arange(size)).sum() == 1
    attached = ImageFolderDataModule(str(folder), image_size=8, embeddings=str(tmp_path / "e"))
    assert attached.dataset("train").__getitems__([0]).embeddings.z_i.shape == (1, 16)
    assert attached.clip_fingerprint == opened.info.clip_fingerprint


def pictures(folder, count=12):
    """Noise with captions."""
    folder.mkdir()
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
        (folder / f"{k:02}.txt").write_text(f"a circle {'very ' * k}red")
    return folder


def folder_of(path, **more):
    options = {"splits": SplitConfig(val_share=0.0, test_share=0.0), "faults": FaultPolicy(max_skipped=5), **more}
    return ImageFolderDataModule(str(path), image_size=16, **options)


def skipped(folder, name="skipped.jsonl"):
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return sorted((row["split"], row["place"].rpartition("/")[2], row["kind"]) for row in rows)


def test_what_cannot_be_used_is_told_written_down_and_known_to_who_reads_the_embeddings(tmp_path, capsys, caplog):
    data, out = pictures(tmp_path / "data"), tmp_path / "e"
    (data / "07.txt").unlink()
    good = (data / "03.png").read_bytes()
    (data / "03.png").write_bytes(good[:200])
    for _ in range(2):  # The second time nothing is left to do.
        embed(folder_of(data), FakeCLIP(), out, ["train"], batch_size=4, shard_rows=5)
    assert caplog.text.count("1 skipped from train (1 for no caption)") == 2
    said = capsys.readouterr().out
    assert f"train: 1 pairs cannot be read; other pairs stand in their rows, which {out}/train/replaced lists" in said
    assert f"{out}/skipped.jsonl says why" in said
    assert skipped(out) == [("train", "03.png", "a damaged picture"), ("train", "07.png", "no caption")]
    opened = open_embeddings(out)
    assert opened.info.replaced == {"train": 1}
    ((row, pair),) = opened.replaced("train").tolist()
    assert row == 3 != pair
    rows = opened.rows("train")
    assert torch.equal(rows[[row]].z_i, rows[[pair]].z_i)
    (data / "03.png").write_bytes(good)  # Whole again; its embeddings are still another's.
    attached = folder_of(data, embeddings=str(out), captions=CaptionConfig(draw=False), batch_size=11)
    assert 3 not in next(iter(attached.train_dataloader())).index
    assert [fault.kind for fault in attached.log("train").found.values()] == ["no caption", "no embeddings of its own"]
    prior = EmbeddingsDataModule(str(out), faults=FaultPolicy(max_skipped=1))
    assert prior.size("train") == 10


@pytest.mark.timeout(300)
def test_what_other_processes_and_runs_could_not_read_is_counted(tmp_path, capsys):
    data, out = pictures(tmp_path / "data"), tmp_path / "e"
    pictures(tmp_path / "val", 4)
    for number in (1, 6, 11):
        (data / f"{number:02}.png").write_bytes(b"")
    two = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork"}

    class Killed(FakeCLIP):
        def encode_image(self, images):
            if len(self.seen) == 2:
                raise RuntimeError("the machine is gone")
            return super().encode_image(images)

    options = {"batch_size": 3, "shard_rows": 3}
    with pytest.raises(RuntimeError, match="gone"):
        embed(folder_of(data), Killed(), out, ["train"], **options)
    both = folder_of(data, val=str(tmp_path / "val"))
    embed(both, FakeCLIP(), out, ["train", "val"], trainer=two, **options)
    info = open_embeddings(out).info
    assert info.sizes == {"train": 12, "val": 4}  # One process wrote both.
    assert info.replaced == {"train": 3}
    assert open_embeddings(out).replaced("train")[:, 0].tolist() == [1, 6, 11]
    assert "train: 3 pairs cannot be read" in capsys.readouterr().out
    assert {place for _, place, _ in skipped(out) + skipped(out, "1-skipped.jsonl")} == {"01.png", "06.png", "11.png"}
    embed(both, FakeCLIP(), tmp_path / "one", ["train", "val"], **options)
    one, other = (
        {name: data for name, data in contents(folder).items() if "skipped" not in name}
        for folder in (out, tmp_path / "one")
    )
    assert one == other


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: setattr(data, "image_size", 24), "--image-size 16, not 24"),
        (
            lambda data: {"trainer": {"accelerator": "cpu", "precision": "bf16-mixed"}},
            "--precision 32-true, not bf16-mixed",
        ),
        (lambda data: setattr(data, "picture", PictureConfig(draft=False)), r"picture\.draft_margin 2\.0, not None"),
    ],
)
def test_a_finished_split_made_with_other_settings_is_refused_unless_told(tmp_path, change, named):
    path, out = pictures(tmp_path / "data"), tmp_path / "e"
    embed(folder_of(path), FakeCLIP(), out, ["train"])
    assert open_embeddings(out).info.settings == {
        "train": {"image_size": 16, "precision": "32-true", "draft_margin": 2.0}
    }

    class Exact(FakeCLIP):  # As FrozenCLIP, whose embeddings have unit norm in any precision.
        def encode_image(self, images):
            with torch.autocast("cpu", enabled=False):
                return super().encode_image(images)

        def encode_text(self, tokens):
            with torch.autocast("cpu", enabled=False):
                return super().encode_text(tokens)

    data, clip = folder_of(path), Exact()
    more = change(data) or {}
    with pytest.raises(InputError, match=rf"{out}: holds train embeddings made with .*{named}; name .*--overwrite"):
        embed(data, clip, out, ["train"], **more)
    assert clip.seen == []
    embed(data, clip, out, ["train"], overwrite=True, **more)
    assert clip.seen == [12]


def test_unfinished_shards_of_another_command_are_refused_by_the_flag(tmp_path):
    class Killed(FakeCLIP):
        def encode_image(self, images):
            if len(self.seen) == 3:
                raise RuntimeError("the machine is gone")
            return super().encode_image(images)

    with pytest.raises(RuntimeError, match="gone"):
        embed(shapes(), Killed(), tmp_path, ["train"], batch_size=5, shard_rows=5)
    with pytest.raises(InputError, match=r"\.train\.partial: holds unfinished .*--shard-rows 5, not 7.*--overwrite"):
        embed(shapes(), FakeCLIP(), tmp_path, ["train"], batch_size=5, shard_rows=7)
    rest = FakeCLIP()
    embed(shapes(), rest, tmp_path, ["train"], batch_size=5, shard_rows=5)
    assert rest.seen == [5, 3]
