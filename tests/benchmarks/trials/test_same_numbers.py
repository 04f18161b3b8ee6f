"""The comparison of two versions' results: equal results are equal, and the smallest difference is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.trials.same_numbers import __main__ as same_numbers
from benchmarks.trials.same_numbers import same_tensors
from benchmarks.trials.same_numbers.configs import Size, everywhere, smaller, stage_config, take_configs, write_configs
from benchmarks.trials.same_numbers.same_files import compare_folders, compare_numbers
from benchmarks.trials.same_numbers.same_tensors import compare_tensors, leaves
from benchmarks.trials.same_numbers.server import Server
from benchmarks.trials.same_numbers.side import Side, Step, code_checksum, copy
from benchmarks.trials.same_numbers.steps import PARTS, steps

ROOT = Path(__file__).parents[3]
RESULTS = {"rows": [{"condition": "glide", "frechet": 1.25}, {"condition": "ar_prior", "frechet": 2.5}]}
TABLE = "# run\n\nProse of 12 words.\n\n| Prior | FID |\n| --- | --- |\n| none | 12.5 [11, 14] |\n| AR | 1,234.5 |\n"


@pytest.fixture
def before(tmp_path):
    folder = tmp_path / "before"
    (folder / "pictures").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weights = {"out.weight": torch.randn(4, 3, generator=generator), "out.bias": torch.zeros(4)}
    save_file(weights, folder / "model.safetensors")
    state = {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3, generator=generator)}
    checkpoint = {"state_dict": weights, "optimizer_states": [{"state": {0: state}}], "global_step": 60}
    torch.save({**checkpoint, "hyper_parameters": {"lr": 1.0}}, folder / "last.ckpt")
    torch.save({"z_i": torch.randn(2, 4, generator=generator)}, folder / "batch-00000.pt")
    pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "pictures" / "00000.png")
    (folder / "results.json").write_text(json.dumps({**RESULTS, "seconds": {"clip": 3.0}}))
    (folder / "tables.md").write_text(TABLE)
    (folder / "metrics.csv").write_text("step,loss\n9,0.125\n19,0.0625\n")
    np.save(folder / "mean.npy", np.linspace(0, 1, 5))
    return folder


@pytest.fixture
def after(before, tmp_path):
    return Path(shutil.copytree(before, tmp_path / "after"))


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_equal_folders_are_equal(before, after):
    found = compare_folders(before, after)
    # Tensors: 2 exported; 2 + 2 and the global step of the checkpoint; 1 predicted; 1 array. A picture. 4 values in
    # results.json, 4 rows of the table, 4 values of the curve.
    assert found.same
    assert (found.compared, found.differing, found.notes) == (9 + 1 + 4 + 4 + 4, [], [])
    assert found.line() == "same bits (22 values)"


def test_one_bit_of_a_tensor_is_found_and_named(before, after):
    path = after / "model.safetensors"
    tensors = load_file(path)
    value = tensors["out.weight"][2, 1].clone()
    tensors["out.weight"].view(torch.int32)[2, 1] ^= 1
    step = (tensors["out.weight"][2, 1].double() - value.double()).abs().item()
    save_file(tensors, path)
    found = compare_folders(before, after)
    assert not found.same
    assert found.differing == [f"model.safetensors: out.weight (1 of 12 values, by {step:.3g} at most)"]
    assert (found.largest, found.at) == (step, "model.safetensors: out.weight")
    assert 0 < step < 1e-6


def test_one_number_of_an_optimiser_is_found_and_named(before, after):
    content = torch.load(after / "last.ckpt", weights_only=True)
    content["optimizer_states"][0]["state"][0]["exp_avg"][0, 0] += 0.5
    content["hyper_parameters"]["lr"] = 2.0  # A setting, which is compared by what comes of it.
    torch.save(content, after / "last.ckpt")
    found = compare_folders(before, after)
    assert found.at == "last.ckpt: optimizer_states[0].state.0.exp_avg"
    assert found.largest == pytest.approx(0.5, abs=1e-6)
    assert len(found.differing) == 1


def test_one_pixel_is_found_and_named(before, after):
    path = after / "pictures" / "00000.png"
    pixels = np.array(Image.open(path))
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(path)
    found = compare_folders(before, after)
    assert found.differing == ["pictures/00000.png: pixels (1 of 192 values, by 1 at most)"]
    assert found.largest == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "named", "size"),
    [
        ("results.json", "2.5", "2.5000000000000004", "results.json: rows[1].frechet", 4.440892098500626e-16),
        ("tables.md", "[11, 14]", "[11, 15]", "tables.md: [2]", 1.0),
        ("tables.md", "1,234.5", "1,234.6", "tables.md: [3]", 0.1),
        ("metrics.csv", "0.0625", "0.0626", "metrics.csv: [1].loss", 1e-4),
    ],
)
def test_one_number_of_a_text_is_found_and_named(before, after, file, old, new, named, size):
    changed(after / file, old, new)
    found = compare_folders(before, after)
    assert [name.rpartition(" (")[0].split(" (")[0] for name in found.differing] == [named]
    assert (found.at, found.largest) == (named, pytest.approx(size, abs=1e-9 if size > 1e-9 else 0))
    assert not found.same
    assert found.line().startswith("1 of 22 values DIFFER, by ")


def test_what_tells_of_the_run_is_left_out_and_words_are_noted(before, after):
    changed(after / "results.json", '"clip": 3.0', '"clip": 4.0')
    changed(after / "tables.md", "Prose of 12 words", "Other prose")
    changed(after / "tables.md", "| none |", "| no prior |")
    found = compare_folders(before, after)
    assert found.same
    assert found.notes == [
        "tables.md: [2] (words: '| none | 12.5 [11, 14] |' before, '| no prior | 12.5 [11, 14] |' now)"
    ]


def test_a_file_or_key_that_is_missing_is_a_difference_and_a_new_one_is_none(before, after):
    (after / "metrics.csv").unlink()
    (after / "new.json").write_text("{}")
    (after / "results.json").write_text(json.dumps({"rows": [*RESULTS["rows"][:1], {"condition": "ar_prior"}], "x": 1}))
    found = compare_folders(before, after)
    assert found.differing == [
        "metrics.csv (file missing now)", "results.json: rows[1].frechet (missing now)",
    ]  # fmt: skip
    assert found.notes == ["new.json (file not there before)", "results.json: x (new)"]


def test_nothing_compared_is_not_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert not found.same
    assert found.line() == "NOTHING COMPARED: no values"


def test_a_renamed_tensor_with_the_same_bits_is_found():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    found = compare_tensors({"x": a, "y": b, "z": torch.zeros(2)}, {"z": torch.zeros(2), "new.y": b, "new.x": a})
    assert found.same
    assert found.notes == ["x is now new.x", "y is now new.y"]


def test_a_renamed_tensor_that_differs_is_compared_with_its_like(monkeypatch):
    before = {"x": torch.tensor([1.0, 2.0]), "y": torch.zeros(2, 3)}
    after = {"new.y": torch.zeros(2, 3), "new.x": torch.tensor([1.0, 2.5])}
    found = compare_tensors(before, after)
    assert found.differing == ["x (1 of 2 values, by 0.5 at most)"]
    # Two of one shape that both differ are told apart by the table of names.
    before, after = ({"a": torch.ones(1), "b": torch.zeros(1)}, {"n.b": torch.ones(1) / 4, "n.a": torch.ones(1) * 2})
    assert compare_tensors(before, after).largest == 2.0
    monkeypatch.setattr(same_tensors, "RENAMED", ((r"^n\.", ""),))
    found = compare_tensors(before, after)
    assert found.differing == ["a (1 of 1 values, by 1 at most)", "b (1 of 1 values, by 0.25 at most)"]


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), "0 of 1 values, by 0 at most"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "float32 (2,) before, float64 (2,) now"),
        (torch.ones(2), torch.ones(2, 1), "float32 (2,) before, float32 (2, 1) now"),
        (torch.ones(1), torch.tensor([torch.nan]), "1 of 1 values, by nan at most"),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), None),
    ],
)
def test_bits_types_and_shapes_count(a, b, reason):
    found = compare_tensors({"x": a}, {"x": b})
    assert found.differing == ([f"x ({reason})"] if reason else [])


def test_a_tensor_without_a_partner_is_a_difference():
    found = compare_tensors({"x": torch.ones(2), "y": torch.ones(3)}, {"x": torch.ones(2), "z": torch.ones(4)})
    assert found.differing == ["y (missing now)", "z (not there before)"]
    number = torch.tensor(2.0, dtype=torch.float64)
    found = compare_tensors({"x": torch.ones(2)}, {"x": torch.ones(2), "callbacks.count": number})
    assert (found.differing, found.notes) == ([], ["callbacks.count (new)"])
    assert compare_tensors({"count": number}, {}).differing == ["count (missing now)"]


def test_the_numbers_of_a_checkpoint_count():
    found = dict(leaves({"loops": {"step": 3, "done": True}, "rates": [0.5], "name": "x", "none": None}))
    assert {name: tensor.item() for name, tensor in found.items()} == {
        "loops.step": 3,
        "loops.done": 1,
        "rates[0]": 0.5,
    }


def test_kinds_of_values():
    assert compare_numbers({"a": 1}, {"a": 1.0}).same
    assert compare_numbers([float("nan")], [float("nan")]).same
    assert compare_numbers([True], [1]).differing == ["[0] (True before, 1 now)"]
    assert compare_numbers([None], [0.0]).differing == ["[0] (None before, 0.0 now)"]
    assert compare_numbers([1, 2], [1]).differing == [" (2 entries before, 1 now)"]
    assert compare_numbers("took 1:02:03, loss 0.5", "took 1:02:09, loss 0.5").same
    assert not compare_numbers("\u22121.5", "1.5").same


def test_a_stage_has_fewer_steps_and_a_checkpoint_at_half():
    config = {
        "trainer": {"max_steps": 1000, "val_check_interval": 500, "gradient_clip_val": 1.0},
        "data": {"init_args": {"train_size": 40000, "val_size": 64, "batch_size": 32}},
    }
    made = stage_config(config, "decoder", Size(60))
    assert made["data"]["init_args"] == {"train_size": 1024, "val_size": 64, "batch_size": 32}
    assert made["checkpoint"]["every_n_train_steps"] == made["trainer"]["val_check_interval"] == 30
    assert (made["trainer"]["max_steps"], made["trainer"]["gradient_clip_val"]) == (60, 1.0)
    assert made["trainer"]["default_root_dir"] == "train/decoder"
    assert stage_config(config, "decoder", Size(2000, real=True))["data"] == config["data"]
    assert everywhere({"a": [{"val_size": 1000}]}, smaller) == {"a": [{"val_size": 256}]}


def test_the_steps_name_files_that_are_there(tmp_path):
    write_configs(ROOT, tmp_path / "configs", Size())
    (tmp_path / "configs" / "captions.txt").touch()
    wanted = steps(PARTS, None)
    assert len({step.file for step in wanted}) == len(wanted)
    assert all(step.outputs for step in wanted)
    for word in (word for step in wanted for word in step.words):
        if word.startswith(("configs/", "{checkout}")):
            assert (tmp_path / word.replace("{checkout}", str(ROOT))).exists()
    assert {step.part for step in wanted} == set(PARTS)
    assert steps(("resume",), None)[0].copies[0][0] == "train/clip/checkpoints/last-1.ckpt"
    assert steps(("use",), "/there")[0].copies[0] == ("/there/clip", "use/run/clip")


class FakeServer:
    """In the place of the process that runs commands: writes a value, and counts."""

    def __init__(self, value: float, code: int = 0) -> None:
        self.value, self.code, self.runs = value, code, 0

    def run(self, words: list[str], cwd: Path, log: Path) -> int:
        self.runs += 1
        log.write_text("said\nsomething last")
        if not self.code:
            (cwd / "out.json").write_text(json.dumps({"value": self.value}))
        return self.code


def side(folder: Path, value: float, code: int = 0, **settings: int) -> Side:
    made = Side(folder, ROOT, settings)
    made.__dict__ |= {"server": FakeServer(value, code), "code": "abc"}
    return made


def test_a_step_is_done_once_by_both_and_compared(tmp_path):
    one = Step("use", "thing", ("make", "thing"), ("out.json",))
    before, after = side(tmp_path / "before", 1.0), side(tmp_path / "after", 1.5)
    ((name, found),) = same_numbers.compared(one, before, after)
    assert (name, found.largest, found.at) == ("thing", 0.5, "value")
    list(same_numbers.compared(one, before, after))
    assert [s.server.runs for s in (before, after)] == [1, 1]
    after.code = "other code"
    after.server.value = 1.0
    ((name, found),) = same_numbers.compared(one, before, after)
    assert found.same
    assert [s.server.runs for s in (before, after)] == [1, 2]
    before.settings = {"steps": 2}
    list(same_numbers.compared(one, before, after))
    assert before.server.runs == 2
    kept = Side(before.folder, None, {"steps": 2})
    assert kept.do(one, kept)["exit code"] == 0
    with pytest.raises(SystemExit, match="lacks use other"):
        kept.do(Step("use", "other", ("x",)), kept)
    with pytest.raises(SystemExit, match="train/clip does not exist: the part 'train' comes before 'resume'"):
        after.do(Step("resume", "clip", ("x",), copies=(("train/clip", "resume/clip"),)), before)


def test_the_older_versions_results_alone(tmp_path, capsys):
    wanted = [Step("use", "thing", ("x",), ("out.json",)), Step("use", "another", ("y",), ("out.json",))]
    assert same_numbers.make(wanted, side(tmp_path / "before", 1.0)) == 0
    assert same_numbers.make(wanted, side(tmp_path / "before", 1.0, code=2, steps=3)) == 1
    assert "[2/2] use, another: exit code 2: something last" in capsys.readouterr().out


def test_the_exit_code_and_the_json_tell_of_a_difference(tmp_path, capsys):
    wanted = [Step("use", "thing", ("x",), ("out.json",))]
    before = side(tmp_path / "before", 1.0)
    assert same_numbers.compare(wanted, before, side(tmp_path / "same", 1.0), tmp_path / "a.json") == 0
    assert same_numbers.compare(wanted, before, side(tmp_path / "other", 1.5), tmp_path / "b.json") == 1
    (result,) = json.loads((tmp_path / "b.json").read_text())
    assert (result["part"], result["item"], result["same"], result["largest"]) == ("use", "thing", False, 0.5)
    assert "1 comparisons, 1 of them not the same" in capsys.readouterr().out


def test_a_command_that_fails_is_a_difference(tmp_path):
    one = Step("use", "thing", ("make", "thing"), ("out.json",))
    before, after = side(tmp_path / "before", 1.0), side(tmp_path / "after", 1.0, code=2)
    ((_, found),) = same_numbers.compared(one, before, after)
    assert not found.same
    assert "0 before, 2 now; their last lines: 'something last', 'something last'" in found.line()
    after.server.code = 0  # What has failed is tried again.
    ((_, found),) = same_numbers.compared(one, before, after)
    assert found.same


def test_a_resumption_is_compared_with_training_in_one_go(tmp_path):
    before, after = side(tmp_path / "before", 1.0), side(tmp_path / "after", 1.0)
    for one in (before, after):
        for name, value in (("resume", 0.0), ("train", 1.25)):
            (one.folder / name).mkdir(parents=True)
            (one.folder / name / "out.json").write_text(json.dumps({"value": value}))
    step = Step("resume", "clip", ("fit",), ("resume/out.json",), cwd="resume")
    lines = dict(same_numbers.compared(step, before, after))
    assert [found.same for found in lines.values()] == [True, False, False]
    assert all(found.largest == 0.25 for found in list(lines.values())[1:])


def test_what_a_step_reads_is_copied_when_it_has_changed(before, tmp_path):
    target = tmp_path / "deep" / "copy"
    copy(before, target)
    (target / "results.json").touch()
    copy(before / "results.json", target / "results.json")
    assert compare_folders(before, target).same
    first = (target / "mean.npy").stat().st_ino
    copy(before, target)
    assert (target / "mean.npy").stat().st_ino == first  # It was the same copy.
    np.save(before / "mean.npy", np.linspace(0, 2, 5))
    (target / "left.json").touch()
    copy(before, target)
    assert compare_folders(before, target).same
    assert not (target / "left.json").exists()


def test_commands_run_the_code_of_their_checkout(tmp_path):
    package = tmp_path / "checkout" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['OMP_NUM_THREADS'], os.environ['UNCLIP_RUN'])\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    checksum = code_checksum(tmp_path / "checkout")
    server = Server(tmp_path / "checkout", {"UNCLIP_RUN": "there"}, 1)
    try:
        assert [server.run([code, "b"], tmp_path, tmp_path / f"{code}.txt") for code in ("0", "3")] == [0, 3]
    finally:
        server.stop()
    assert (tmp_path / "3.txt").read_text() == "['3', 'b'] 1 there\n"
    assert code_checksum(tmp_path / "checkout") == checksum
    (package / "more.py").touch()
    assert code_checksum(tmp_path / "checkout") != checksum


def test_both_versions_train_by_the_older_ones_yamls(tmp_path):
    older, newer = tmp_path / "older", tmp_path / "newer"
    older.mkdir()
    network = {"class_path": "modules.networks.ar_prior.ARPriorNetwork", "init_args": {"width": 8}}
    config = {"model": {"network": network, "optimizer": "torch.optim.AdamW"}, "trainer": {"max_steps": 60}}
    (older / "ar_prior.yaml").write_text(yaml.safe_dump(config))
    (older / "captions.txt").write_text("a red circle\n")
    take_configs(older, newer)
    network["class_path"] = "modules.networks.priors.ar_prior.ARPriorNetwork"
    assert yaml.safe_load((newer / "ar_prior.yaml").read_text()) == config
    assert (newer / "captions.txt").read_text() == "a red circle\n"
