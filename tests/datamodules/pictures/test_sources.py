"""What holds for every format of picture files: the pairs, their order and draws, one batch for all stages."""

import json
import pickle

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from benchmarks.made_up_data.embedding_formats import write_embeddings
from benchmarks.made_up_data.formats import FORMATS, samples, write_shards, write_text_files
from datamodules.captions import CaptionConfig
from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import EmbeddingsInfo
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.faults import FaultPolicy
from datamodules.image_folder import ImageFolderDataModule
from datamodules.order import SeededBatchSampler
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import SplitConfig
from datamodules.pictures.sources import choose_split, sample
from datamodules.rendered.cache import digest
from datamodules.rendered.scenes import make_pair, render
from datamodules.webdataset import WebDatasetDataModule
from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.errors import InputError

COUNT = 24
ALL = SplitConfig(val_share=0.0, test_share=0.0)
HELD = SplitConfig(val_share=0.2, test_share=0.2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pairs = samples(COUNT, 32, quality=95)
    made = {}
    for name, format in FORMATS.items():
        made[name] = tmp_path_factory.mktemp("format")
        format.write(made[name], pairs)
    return made


@pytest.fixture
def make(folders):
    def make(name, **more):
        return FORMATS[name].open(folders[name], **{"image_size": 32, "batch_size": 5, "splits": HELD, **more})

    return make


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pairs(make, name):
    data = make(name, splits=ALL)
    assert data.size("train") == COUNT
    batch = data.dataset("train").__getitems__(list(range(COUNT)))
    assert isinstance(batch, ImageTextBatch)
    assert batch.images.shape == (COUNT, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert (batch.attributes, batch.embeddings) == (None, None)
    assert batch.index.tolist() == list(range(COUNT))
    assert batch.captions == data.captions("train")
    true = [make_pair("train", k) for k in range(COUNT)]
    assert sorted(batch.captions) == sorted(pair.caption for pair in true)
    for image, caption in zip(batch.images, batch.captions, strict=True):
        pixels = (image.permute(1, 2, 0).numpy() + 1) * 127.5
        possible = [render(pair.scene, 32) for pair in true if pair.caption == caption]
        assert min(np.abs(pixels - each).mean() for each in possible) < 5, caption  # JPEG's loss
    assert len(data.log("train")) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_the_splits_share_out_the_pairs(make, name):
    data = make(name)
    captions = [caption for split in ("train", "val", "test") for caption in data.captions(split)]
    assert sorted(captions) == sorted(make("text files", splits=ALL).captions("train"))
    assert min(data.size(split) for split in ("train", "val", "test")) >= 1
    seen = [index for batch in data.val_dataloader() for index in batch.index.tolist()]
    assert seen == list(range(data.size("val")))
    assert len({data.data_hash(split) for split in ("train", "val", "test")}) == 3
    assert make(name).data_hash("train") == data.data_hash("train")


@pytest.mark.parametrize("name", FORMATS)
def test_a_pass_shows_every_pair_once_and_any_position_can_be_taken_up_again(make, name):
    order = {"splits": ALL, "picture": PictureConfig(crop="random", flip=True), "batch_size": 4}
    batches = list(make(name, **order).train_dataloader())
    assert sorted(index for batch in batches for index in batch.index.tolist()) == list(range(COUNT))
    later = make(name, **order, num_workers=2)
    later._batches_consumed = lambda: 4
    for expected, found in zip(batches[4:], later.train_dataloader(), strict=True):
        assert torch.equal(expected.images, found.images)
        assert expected.captions == found.captions
        assert torch.equal(expected.index, found.index)


def test_the_training_order_numbers_its_passes_from_one(make):
    plain, drawn = (
        [index for batch in SeededBatchSampler(6, 4, seed=3, total=6, number_passes=n) for index in batch]
        for n in (False, True)
    )
    assert [index % 6 for index in drawn] == plain
    assert [index // 6 for index in drawn] == [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6
    loader = make("COCO", splits=ALL).train_dataloader()
    assert {index // COUNT for batch in loader.batch_sampler for index in batch[:4]} == {1}


def test_one_of_several_captions_is_drawn_in_every_pass(make):
    data = make("COCO", splits=ALL)
    dataset = data.dataset("train")
    choices = dataset.pairs.captions
    several = [k for k in range(COUNT) if len(choices.all_of(k)) > 1]
    passes = [dataset.__getitems__([k + (number + 1) * COUNT for k in several]).captions for number in range(8)]
    drawn = [set(column) for column in zip(*passes, strict=True)]
    assert all(found <= set(choices.texts) for found in drawn)
    assert sum(len(found) for found in drawn) > 1.5 * len(several)
    assert passes[0] == make("COCO", splits=ALL).dataset("train").__getitems__([k + COUNT for k in several]).captions
    other = make("COCO", splits=ALL, seed=1).dataset("train")
    assert passes[0] != other.__getitems__([k + COUNT for k in several]).captions
    still = make("COCO", splits=ALL, captions=CaptionConfig(draw=False)).dataset("train")
    assert still.__getitems__([k + COUNT for k in several]).captions == dataset.__getitems__(several).captions


@pytest.mark.parametrize(
    ("name", "columns"), [("metadata.jsonl", ("text", "recaption")), ("shards", ("txt", "recaption"))]
)
def test_captions_are_drawn_with_their_sources_shares(make, name, columns):
    def drawn(**shares):
        config = CaptionConfig(columns=dict(zip(("ground_truth", "synthetic"), columns, strict=True)), shares=shares)
        dataset = make(name, splits=ALL, captions=config).dataset("train")
        rounds = range(1, 21)
        return [
            dataset.pairs.captions.drawn(k, np.random.default_rng((r, k))) for r in rounds for k in range(COUNT)
        ], dataset

    first, dataset = drawn(ground_truth=1.0)
    synthetic, _ = drawn(synthetic=1.0)
    mixed, _ = drawn(ground_truth=0.25, synthetic=0.75)
    differ = [a != b for a, b in zip(first, synthetic, strict=True)]
    assert first == [dataset.pairs.captions.first(k) for _ in range(20) for k in range(COUNT)]
    share = np.mean([m == s for m, s, d in zip(mixed, synthetic, differ, strict=True) if d])
    assert share == pytest.approx(0.75, abs=0.06)


class Watcher(LightningModule):
    """Notes what it sees, and where the pixels became floats."""

    def __init__(self, folder):
        super().__init__()
        self.weight, self.folder, self.seen = torch.nn.Parameter(torch.zeros(())), folder, []

    def training_step(self, batch, batch_idx):
        if isinstance(batch, EmbeddingBatch):
            self.seen.append([batch.index.tolist(), digest(batch.z_i.tolist()), batch.tokens.tolist()])
            return (self.weight - batch.z_t.mean()) ** 2
        assert batch.images.dtype == torch.float32
        assert batch.images.abs().max() <= 1
        self.seen.append([batch.index.tolist(), digest(batch.images.tolist()), batch.captions])
        return (self.weight - batch.images.mean()) ** 2

    def validation_step(self, batch, batch_idx):
        assert isinstance(batch, EmbeddingBatch) or batch.images.dtype == torch.float32

    def on_train_end(self):
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path, data, steps, ckpt=None, callbacks=(), **options):
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False),
        **options,
    )
    trainer.fit(Watcher(tmp_path), datamodule=data, ckpt_path=ckpt)
    world = options.get("devices", 1)
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]


def shards_of_two_at_a_time(folder):
    write_shards(folder / "shards", samples(COUNT, 32), [3, 16, 5])
    return WebDatasetDataModule(
        str(folder / "shards"),
        str(folder / "shards" / "00001.tar"),
        shuffle_shards=2,
        cache_dir=None,
        **SERVED,
        **DRAWN,
    )


def pictures_in_a_folder(folder):
    write_text_files(folder / "pictures", samples(COUNT, 32))
    write_text_files(folder / "val", samples(4, 32))
    return ImageFolderDataModule(str(folder / "pictures"), str(folder / "val"), **SERVED, **DRAWN)


def embeddings_alone(folder):
    write_embeddings(folder / "e", samples(COUNT, 32))
    write_embeddings(folder / "e", samples(4, 32), "val")
    return EmbeddingsDataModule(str(folder / "e"), **SERVED)


SERVED = {"batch_size": 3, "num_workers": 4}
DRAWN = {"image_size": 16, "splits": ALL, "picture": PictureConfig(crop="random", flip=True)}


@pytest.mark.parametrize("data", [shards_of_two_at_a_time, pictures_in_a_folder, embeddings_alone])
def test_two_processes_with_four_workers_see_every_pair_once_a_pass_and_go_on_after_an_interruption(tmp_path, data):
    from lightning.pytorch.callbacks import ModelCheckpoint

    options = {"strategy": "ddp_fork", "devices": 2}
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    whole = fit(tmp_path, data(tmp_path), 8, callbacks=[checkpoint], **options)
    for number in range(2):  # 24 pairs in batches of 2 x 3: a pass is 4 steps.
        seen = [index for rank in whole for batch in rank[number * 4 : number * 4 + 4] for index in batch[0]]
        assert sorted(seen) == list(range(COUNT))
    rest = fit(tmp_path, data(tmp_path), 8, ckpt=tmp_path / "step=5.ckpt", **options)
    assert [rank[5:] for rank in whole] == rest


def test_a_broken_picture_is_replaced_counted_and_said_also_from_a_worker(tmp_path, caplog):
    format = FORMATS["text files"]
    pairs = samples(COUNT, 32)
    format.write(tmp_path / "data", pairs)
    broken = sorted((tmp_path / "data").glob("*.jpg"))[7]
    broken.write_bytes(b"")
    format.write(tmp_path / "val", pairs[:2])
    arguments = {"train": str(tmp_path / "data"), "image_size": 16, "batch_size": 4, "splits": ALL}
    run = tmp_path / "run"
    run.mkdir()
    data = ImageFolderDataModule(**arguments, num_workers=2, val=str(tmp_path / "val"))
    (seen,) = fit(run, data, 12)  # Two passes: it is counted once.
    indices = [index for batch in seen for index in batch[0]]
    assert 7 not in indices
    assert len(indices) == 2 * COUNT
    assert set(indices) == set(range(COUNT)) - {7}
    assert len(data.log("train")) == 1
    (line,) = [json.loads(text) for text in (run / "skipped.jsonl").read_text().splitlines() if '"train"' in text]
    assert line == {"split": "train", "place": str(broken), "kind": "no readable picture", "detail": "", "pairs": 1}
    assert f"skipped from train: {broken}: no readable picture" in caplog.text
    assert "1 skipped from train (1 for no readable picture); " in caplog.text
    again = ImageFolderDataModule(**arguments)
    assert [batch.index.tolist() for batch in again.train_dataloader()] == [batch[0] for batch in seen[:6]]
    refusing = ImageFolderDataModule(**arguments, num_workers=2, faults=FaultPolicy("refuse"))
    with pytest.raises(
        InputError, match=r"jpg: no readable picture; correct it, or skip such pairs with faults"
    ) as error:
        list(refusing.train_dataloader())
    assert "\n" not in str(error.value)


def test_too_many_faults_stop_with_the_count_and_nothing_readable_with_the_last(tmp_path):
    FORMATS["text files"].write(tmp_path, samples(COUNT, 32))
    for path in sorted(tmp_path.glob("*.jpg"))[:3]:
        path.write_bytes(b"")
    make = lambda **more: ImageFolderDataModule(str(tmp_path), image_size=16, batch_size=4, splits=ALL, **more)  # noqa: E731
    with pytest.raises(
        InputError, match=r"3 skipped from train .* more than the 2 that faults.max_skipped \(2\) allows"
    ):
        list(make(faults=FaultPolicy(max_skipped=2)).train_dataloader())
    assert len(list(make(faults=FaultPolicy(max_skipped=3)).train_dataloader())) == 6
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"16 pairs in a row cannot be read, the last: .*no readable picture"):
        list(make(faults=FaultPolicy(max_skipped=1000)).train_dataloader())


def test_embeddings_belong_to_first_captions_and_centres(make, tmp_path):
    plain = make("COCO", splits=ALL)
    info = EmbeddingsInfo("abc", 4, 3)
    z = torch.nn.functional.normalize(torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    tokens = torch.ones(COUNT, 3, dtype=torch.int64)
    EmbeddingsWriter(tmp_path, info).write("train", COUNT, plain.data_hash("train"), [(z, z.flip(0), tokens)])
    still = CaptionConfig(draw=False)
    data = make("COCO", splits=ALL, embeddings=str(tmp_path), captions=still)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.embeddings.z_i, z[batch.index])
    assert batch.captions == [plain.captions("train")[index] for index in batch.index.tolist()]
    with pytest.raises(InputError, match=r"captions\.draw: false"):
        make("COCO", splits=ALL, embeddings=str(tmp_path)).dataset("train")
    with pytest.raises(InputError, match=r"picture\.crop: centre"):
        picture = PictureConfig(crop="random")
        make("COCO", splits=ALL, embeddings=str(tmp_path), captions=still, picture=picture).dataset("train")


def test_datasets_travel_to_workers_small_and_give_real_pictures_for_export(make):
    data = make("shards", splits=ALL)
    dataset = data.dataset("train")
    dataset.__getitems__([1])  # Opens a shard.
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent.__getitems__([3]).images, dataset.__getitems__([3]).images)
    pixels, truth = data.real("train", 3, 0, 48, seed=0)
    assert (pixels.shape, truth) == ((48, 48, 3), {})
    np.testing.assert_array_equal(data.images("train", 48)[[3]][0], pixels)
    with pytest.raises(InputError, match="one picture a caption"):
        data.real("train", 3, 1, 48, seed=0)


def test_a_smaller_split_is_a_part_of_the_larger_in_its_order():
    keys, rows = [str(k) for k in range(200)], np.arange(200)
    few, more = sample(keys, rows, 20), sample(keys, rows, 50)
    assert (len(few), len(more)) == (20, 50)
    assert set(few) < set(more)
    assert list(more) == sorted(more)
    assert list(sample(keys, rows, 500)) == list(sample(keys, rows, None)) == list(rows)


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (SplitConfig(), (297, 1, 2)),  # The hashes of these 300 keys, one percent each.
        (SplitConfig(val_size=30), (268, 30, 2)),
        (SplitConfig(val_size=30, test_size=40), (230, 30, 40)),
        (SplitConfig(val_share=0.01, val_size=30), (297, 1, 2)),  # A share that is set is a bound.
        (SplitConfig(val_share=0.5, val_size=30), (151, 30, 3)),
    ],
)
def test_a_size_above_the_share_is_reached_unless_the_share_is_set(tmp_path, splits, sizes):
    for k in range(300):
        (tmp_path / f"{k:03d}.jpg").touch()
        (tmp_path / f"{k:03d}.txt").write_text("a")
    data = ImageFolderDataModule(str(tmp_path), splits=splits)
    assert tuple(data.size(split) for split in ("train", "val", "test")) == sizes
    keys = [set(data.pairs(split).keys) for split in ("train", "val", "test")]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_a_size_that_is_not_reached_is_said(tmp_path, caplog):
    FORMATS["text files"].write(tmp_path, samples(20, 8))
    FORMATS["text files"].open(tmp_path, splits=SplitConfig(val_share=0.1, val_size=500)).size("val")
    assert "splits.val_size asks for 500 pairs, there are" in caplog.text


def test_a_pair_never_changes_its_split_when_others_are_added():
    def parts(count):
        keys = [str(k) for k in range(count)]
        return {
            part: set(choose_split(keys, part, {"val": 0.1, "test": 0.2}).tolist()) for part in ("train", "val", "test")
        }

    small, large = parts(300), parts(1000)
    assert all(small[part] <= large[part] for part in small)
    assert sum(map(len, large.values())) == 1000
    assert (len(large["val"]), len(large["test"])) == (pytest.approx(100, abs=30), pytest.approx(200, abs=40))
    assert [len(part) for part in parts(3).values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: SplitConfig(val_share=1.2), "splits.val_share must be in 0 to 1"),
        (lambda: SplitConfig(val_share=0.5, test_share=0.5), "leave nothing to train on"),
        (lambda: SplitConfig(train_size=0), "splits.train_size must be 1 or more"),
        (lambda: CaptionConfig(shares={"synthetic": 1.0}), "captions.shares names 'synthetic'; there are ground_truth"),
        (lambda: CaptionConfig(shares={"ground_truth": -1.0}), "share of ground_truth is -1"),
        (lambda: CaptionConfig(shares={"ground_truth": 0.0}), "are all 0"),
        (lambda: CaptionConfig(max_words=0), "captions.max_words"),
        (lambda: FaultPolicy(max_skipped=-1), "faults.max_skipped"),
        (lambda: PictureConfig(draft_margin=0.5), "picture.draft_margin must be 1 or more"),
    ],
)
def test_bad_settings_are_named(make_config, message):
    with pytest.raises(InputError, match=message):
        make_config()


def test_the_share_that_may_be_broken_is_one_of_the_split(tmp_path):
    """Not of the source: 10 % of 60 pairs would be as many as the split has."""
    write_text_files(tmp_path, samples(60, 16))
    splits = SplitConfig(val_share=0.0, test_share=0.0, train_size=6)
    make = lambda share: ImageFolderDataModule(  # noqa: E731
        str(tmp_path), image_size=16, batch_size=3, splits=splits, faults=FaultPolicy(max_skipped=share)
    )
    for key in list(make(0.1).pairs("train").keys)[:2]:
        (tmp_path / key).write_bytes(b"")
    with pytest.raises(InputError, match=r"2 skipped from train .* more than the 1 that faults.max_skipped \(0.1\)"):
        list(make(0.1).train_dataloader())
    assert len(list(make(0.3).train_dataloader())) == 2
