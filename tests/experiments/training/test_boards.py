"""What TensorBoard is given, read back from its files: scalars, images and hyperparameters of a stage and of a row."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from eval.samples.folder import SampleFolder, write_samples
from experiments.cli import main
from experiments.evaluation.board import Evaluated, differing, log_evaluation, scalars
from experiments.evaluation.loggers import log_to_loggers, make_loggers
from experiments.training.boards import hyperparameters, log_session
from modules.errors import InputError


def read(folder) -> EventAccumulator:
    """All events of a folder."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def read_hparams(events: EventAccumulator) -> dict:
    """The settings of a run in TensorBoard's HPARAMS."""
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in found.items()}


def columns(*folders) -> tuple[list[str], set[str]]:
    """The columns of TensorBoard's HPARAMS over some runs, by its own code: those that differ, and the others."""
    tags = ("experiment", "session_start_info", "session_end_info")
    runs = {}
    for folder in folders:
        events = read(folder)
        held = events.PluginTagToContent("hparams")
        assert set(held) == {f"_hparams_/{tag}" for tag in tags[1:]}
        runs[str(folder)] = held
    found = Context(None).experiment_from_metadata(None, "", False, runs, []).hparam_infos
    return [info.name for info in found if info.differs], {info.name for info in found if not info.differs}


@pytest.fixture
def trained(tiny, embeddings, tmp_path, monkeypatch):
    """The folder of a decoder that `unclip fit` has trained for four steps."""
    for name in ("UNCLIP_PROGRESS", "UNCLIP_RUN"):
        monkeypatch.delenv(name, raising=False)
    path, network, arguments, more = tiny.STAGES["decoder"]
    more = {**more, "objective": {**more["objective"], "learned_sigma": False}}
    config = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu", "max_steps": 4, "val_check_interval": 2, "limit_val_batches": 1,
            "log_every_n_steps": 1, "default_root_dir": str(tmp_path / "decoder"),
        },
        "model": {
            "class_path": path,
            "init_args": {"network": {"class_path": network, "init_args": arguments}, **more},
        },
        "data": {
            "class_path": "datamodules.shapes.ShapesDataModule",
            "init_args": {"image_size": 16, "batch_size": 8, **tiny.SIZES, "embeddings": str(embeddings),
                          "cache_dir": None},
        },
    }  # fmt: skip
    (tmp_path / "decoder.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "decoder.yaml")]) == 0
    return tmp_path / "decoder"


def test_a_stage(trained, tiny):
    events = read(trained)
    tags = events.Tags()
    assert {"train/loss", "train/lr", "val/loss"} <= set(tags["scalars"]) | {"train/lr"}
    assert [event.step for event in events.Scalars("train/loss")][:4] == [0, 1, 2, 3]
    first = events.Images("val/samples")[0]
    side = tiny.UNET["image_size"]
    with Image.open(io.BytesIO(first.encoded_image_string)) as image:
        assert image.height % side == image.width % side == 0 and np.asarray(image).std() > 0

    settings = read_hparams(events)
    assert settings["seed"] == 3 and settings["max_steps"] == 4 and settings["data.batch_size"] == 8
    assert settings["model"] == "Decoder" and settings["model.network"] == "DecoderNetwork"
    assert settings["model.network.unet.channels"] == tiny.UNET["channels"]
    assert settings["model.network.unet.channel_multipliers"] == str(tiny.UNET["channel_multipliers"])
    assert settings["model.sampler.guidance_scale"] == 2.0
    assert not any("init_args" in name or "class_path" in name for name in settings)
    last = events.Scalars("val/loss")
    assert last[-1].step == 4 and last[-1].value == pytest.approx(last[-2].value)  # of the last validation
    log = (trained / "log.txt").read_text()
    assert log.startswith("decoder: Decoder, ") and log.count("decoder: step ") == 2
    assert "decoder: step 2 of 4: train/loss " in log and f"export: {trained}/export\nnext: " in log


def test_the_table_of_runs_shows_first_what_differs(tmp_path):
    same = {"model": "Decoder", "data.batch_size": 8, "model.compile": True}
    for seed, more in enumerate([{}, {"model.network.heads": 4}, {}]):
        with SummaryWriter(str(tmp_path / f"seed_{seed}")) as writer:
            log_session(writer, {**same, **more, "seed": seed, "model.loss": "min-snr" if seed else "simple"})
    differing, others = columns(*(tmp_path / f"seed_{k}" for k in range(3)))
    assert differing == ["model.loss", "seed"] and others == {*same, "model.network.heads"}
    assert columns(tmp_path / "seed_0")[0] == []


def test_settings_by_short_names():
    config = {
        "seed_everything": None,
        "model": {"class_path": "a.b.C", "init_args": {"x": [1, 2], "y": None, "net": {"class_path": "d.E"}}},
        "data": {"class_path": "f.G", "init_args": {}},
        "trainer": {"max_steps": 5, "logger": True},
    }
    expected = {"model": "C", "model.x": "[1, 2]", "model.net": "E", "data": "G", "max_steps": 5}
    assert hyperparameters(config) == expected


ROW = {
    "condition": "glide", "n": 4, "frechet": {"value": 1.5, "low": 1, "high": 2}, "fid": None,
    "accuracy": {"colour": {"value": 0.25, "low": 0, "high": 1, "n": 3}, "size": None},
    "binding": {"colour and shape": {"n": 2, "swapped": {"value": 0.5, "low": 0, "high": 1}}},
    "warnings": [], "protocol": {"n": 4, "level": {"value": 9}},
}  # fmt: skip


def test_scalars_of_a_row():
    assert scalars(ROW) == {"frechet": 1.5, "accuracy/colour": 0.25, "binding/colour and shape/swapped": 0.5}


def test_an_evaluated_condition(tmp_path):
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    record = {
        "condition": "glide", "seed": 7, "guidance": {"decoder": 2.0}, "sampler": {"decoder": "ddim"},
        "steps": {"decoder": 5}, "config_hash": "abc",
    }  # fmt: skip
    records = [{"caption": f"c{k}", "caption_index": k, "sample_index": 0, **record} for k in range(4)]
    folder = write_samples(tmp_path / "samples" / "glide", images, records)
    for _ in range(2):  # the second takes the place of the first
        log_evaluation(tmp_path, "glide", Evaluated.of_folder(folder, ROW))
    events = read(tmp_path / "evaluation" / "glide")
    assert [event.value for event in events.Scalars("evaluation/frechet")] == [1.5]
    assert events.Scalars("evaluation/accuracy/colour")[0].value == 0.25
    (shown,) = events.Images("evaluation/samples")
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image, Image.open(folder.path / "grid.png") as grid:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(grid.convert("RGB")))
    settings = read_hparams(events)
    assert settings == {
        "condition": "glide", "n": 4, "seed": 7, "guidance.decoder": 2.0, "sampler.decoder": "ddim",
        "steps.decoder": 5, "config_hash": "abc",
    }  # fmt: skip
    assert len(SampleFolder.open(folder.path)) == 4 and json.loads(json.dumps(settings)) == settings


def test_conditions_are_shown_with_the_settings_in_which_they_differ():
    common = {"n": 4, "seed": 7, "guidance.decoder": 2.0}
    first = Evaluated({"condition": "glide", **common, "steps.decoder": 5}, {"x": 1.0}, None)
    second = Evaluated(
        {"condition": "diffusion_prior", **common, "steps.decoder": 9, "steps.prior": 3}, {"x": 2.0}, None
    )
    a, b = differing([first, second])
    assert a.settings == {"condition": "glide", "steps.decoder": 5} and a.metrics == {"x": 1.0}
    assert b.settings == {"condition": "diffusion_prior", "steps.decoder": 9, "steps.prior": 3}
    assert differing([first]) == [first]


def written(tmp_path):
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    records = [
        {"caption": f"c{k}", "caption_index": k, "sample_index": 0, "condition": "glide", "seed": 7} for k in range(4)
    ]
    return write_samples(tmp_path / "samples" / "glide", images, records)


def test_any_logger_is_given_the_numbers(tmp_path):
    folder = written(tmp_path)
    board = "{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: %s}}" % (tmp_path / "b")
    log_to_loggers(make_loggers(["CSVLogger", board], folder.path), Evaluated.of_folder(folder, ROW))
    with (tmp_path / "evaluation" / "glide" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["evaluation/frechet"]) == 1.5 and float(row["evaluation/accuracy/colour"]) == 0.25
    assert "condition: glide" in (tmp_path / "evaluation" / "glide" / "hparams.yaml").read_text()
    events = read(tmp_path / "b" / "glide")
    assert events.Scalars("evaluation/frechet")[0].value == 1.5 and len(events.Images("evaluation/samples")) == 1


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ("NoLogger", "NoLogger"),
        ("os.system", "os.system"),
        ("[CSVLogger]", "name a class"),
        ("{class_path: CSVLogger, init_args: {flush: 3}}", "flush"),
        ("{class_path: 3}", "name a class"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_logger_that_cannot_be_made_is_one_line(tmp_path, named, line):
    with pytest.raises(InputError, match=line) as error:
        make_loggers([named], tmp_path / "samples" / "glide")
    assert "\n" not in str(error.value)
