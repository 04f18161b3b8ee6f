"""Weights are checked by name when a stage is loaded; nothing that is not finite becomes a picture."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.judges.published.weights import read_state
from experiments.cli import main
from experiments.training.checkpoint_files import check_readable
from experiments.training.checkpoints import load_checkpoint
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError
from modules.models.dalle1.openai_layout import read_state_dict
from modules.models.exports import load_model
from modules.pipeline import UnCLIP
from modules.pretrained.reading import tensors_of
from modules.trained_run import TrainedRun
from modules.training.initial import read_source
from modules.untrusted.eight_bits import packed, unpacked
from modules.untrusted.pickles import check_stored
from modules.untrusted.weights import check_finite, check_header


def poison(value):
    def change(tensors):
        name = next(iter(tensors))
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = value

    return change


def swap(make):
    def change(tensors):
        name = next(iter(tensors))
        tensors[name] = make(tensors[name])

    return change


def swap_scales(make):
    """A matrix packed as `make` says: the integers and their scales."""

    def change(tensors):
        name = next(name for name, tensor in tensors.items() if tensor.ndim > 1 and len(tensor) > 1)
        tensors[name], tensors[f"{name}.int8_scale"] = make(tensors[name])

    return change


DAMAGES = {
    "NaN": (poison(float("nan")), "is not finite"),
    "infinity": (poison(float("-inf")), "is not finite"),
    "int8": (swap(lambda t: t.to(torch.int8)), "of int8, not"),
    "float64": (swap(lambda t: t.double()), "of float64, not"),
    "float8": (swap(lambda t: t.to(torch.float8_e4m3fn)), "is of float8_e4m3fn"),
    "complex": (swap(lambda t: t.to(torch.complex64)), "of complex64, not"),
    "another shape": (swap(lambda t: t[..., :1].clone()), "of another network"),
    "a tensor less": (lambda tensors: tensors.pop(next(iter(tensors))), "the weights lack"),
    "a tensor more": (lambda tensors: tensors.update(extra=torch.zeros(1)), "has no extra"),
    "scales of nothing": (
        lambda tensors: tensors.update({"x.int8_scale": torch.zeros(1)}),
        "x.int8_scale scales no mat",
    ),
    "scales of a float": (swap_scales(lambda matrix: (matrix, torch.ones(len(matrix)))), "scales no matrix"),
    "too few scales": (
        swap_scales(lambda matrix: (matrix.to(torch.int8), torch.ones(1))),
        "a float32 number for each row",
    ),
    "whole scales": (
        swap_scales(lambda matrix: (matrix.to(torch.int8), torch.ones(len(matrix), dtype=torch.int64))),
        "a float32 number for each row",
    ),
    "scales of NaN": (
        swap_scales(lambda matrix: (matrix.to(torch.int8), torch.full((len(matrix),), float("nan")))),
        "is not finite",
    ),
    "another's statistics": (lambda tensors: tensors.update({"statistics.x": torch.zeros(1)}), "statistics"),
}


@pytest.mark.parametrize("stage", ["decoder", "ar_prior", "upsampler"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tensor_is_named(weights_of, stage, damage):
    change, line = DAMAGES[damage]
    with pytest.raises(InputError, match=line) as error:
        load_model(weights_of(stage, change))
    assert stage in str(error.value)


def test_statistics_and_codec_are_checked_too(weights_of):
    def nan(tensors):
        tensors["codec.centres"] = tensors["codec.centres"] * float("nan")

    with pytest.raises(InputError, match=r"codec\.centres is not finite"):
        load_model(weights_of("ar_prior", nan))
    with pytest.raises(InputError, match="statistics"):
        load_model(weights_of("diffusion_prior", lambda t: t.update({"statistics.more": torch.zeros(1)})))


@pytest.mark.parametrize(
    ("there", "put"),
    [("decoder", "glide"), ("glide", "decoder"), ("diffusion_prior", "ar_prior"), ("linear_prior", "decoder")],
)
def test_a_stage_of_another_kind_is_refused(sent, there, put):
    shutil.rmtree(sent / there)
    shutil.copytree(sent / put, sent / there)
    with pytest.raises(InputError, match=f"holds the stage {put}, not {there}"):
        TrainedRun(sent).stage(there)


@pytest.mark.parametrize("stage", ["decoder", "diffusion_prior", "upsampler"])
def test_what_is_not_finite_is_no_picture(sent, capsys, monkeypatch, stage):
    # The weights are finite, and what is computed from them is not.
    whole = TrainedRun.stage

    def broken(self, name):
        stored = whole(self, name)
        if name == stage:
            for parameter in stored.model.network.parameters():
                parameter.fill_(3e38)
        return replace(stored)

    monkeypatch.setattr(TrainedRun, "stage", broken)
    words = ["sample", "a red circle", "--run", str(sent), "--out", "out", "--condition", "diffusion_prior"]
    assert main(words) == 2
    assert f"the stage {stage} of" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"the stage {stage} of"):
        UnCLIP.from_run(sent).generate(["a red circle"])


def test_headers_are_bounded(sent):
    path = sent / "decoder" / "export" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
    with pytest.raises(InputError, match="its header says that it has"):
        load_model(sent / "decoder")
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(InputError, match="is damaged"):
        load_model(sent / "decoder")


@pytest.mark.parametrize("sides", [10**4000, 3])
def test_a_shape_of_a_million_sides_is_refused_at_once(tmp_path, sides):
    # The product of as many numbers of 4,000 digits as a header may hold would take hours; of 3s it is "only" large.
    path, count = tmp_path / "model.safetensors", 3000 if sides > 3 else 2_000_000
    header = json.dumps({"a": {"dtype": "F32", "shape": [sides] * count, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="a has a shape that no tensor has"):
        check_header(path)


LARGE = 10**13
UNREAL = {
    "expanded": lambda: torch.zeros(1).expand(LARGE),
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (LARGE,)),
    "without numbers": lambda: torch.empty(LARGE, device="meta"),
}
"""Tensors that a checkpoint of a kilobyte can hold, and whose numbers no memory holds."""


@pytest.mark.parametrize("kind", UNREAL)
@pytest.mark.parametrize("suffix", [".ckpt", ".bin"])
def test_a_tensor_larger_than_its_file_is_not_looked_through(tmp_path, kind, suffix):
    path = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": {"network.a": UNREAL[kind]()}}, path)
    assert path.stat().st_size < 4000
    with pytest.raises(InputError, match="a does not store all of its numbers") as error:
        read_source(str(path)) if suffix == ".ckpt" else tensors_of(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("read", [check_readable, load_checkpoint, tensors_of, lambda path: read_source(str(path))])
def test_a_fifo_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"FIFO|does not exist|no weights"):
        read(tmp_path / "last.ckpt")


class Runs:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "read", [lambda path: read_source(str(path)), tensors_of, read_state, read_state_dict, load_checkpoint]
)
def test_a_pickle_that_would_run_is_one_line_without_the_way_to_run_it(tmp_path, capfd, read):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"network.a": Runs()}}, path)
    with pytest.raises(ValueError) as error:  # Each package's InputError is one.
        read(path)
    assert type(error.value).__name__ == "InputError" and "evil" in str(error.value)
    assert "Re-running" not in str(error.value) and "weights_only` " not in str(error.value)
    assert capfd.readouterr().out == ""


def test_views_of_one_storage_are_sound(tmp_path):
    whole = torch.arange(1.0, 9.0)
    check_finite({"a": whole[2:], "b": whole.view(2, 4).T, "c": torch.ones(2, 1)}, tmp_path)


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    # 1 MB of zeros a kB of file: torch itself stores its records as they are.
    torch.save({"state_dict": {"network.a": torch.zeros(2**18)}}, tmp_path / "sound.ckpt")
    with zipfile.ZipFile(tmp_path / "sound.ckpt") as sound, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as packed:
        for entry in sound.infolist():
            packed.writestr(entry.filename, sound.read(entry), zipfile.ZIP_DEFLATED)
    check_readable(tmp_path / "sound.ckpt")
    for read in (check_readable, load_checkpoint, lambda path: read_source(str(path))):
        with pytest.raises(InputError, match="is compressed, which torch never does"):
            read(tmp_path / "b.ckpt")


@pytest.mark.parametrize(("name", "refused"), [("b/data/0", True), ("b/data/code/0", True), ("b/code/a.py", False)])
def test_only_the_code_of_torchscript_may_be_compressed(tmp_path, name, refused):
    """It is not read; a file chooses the names of its tensors' records, which are."""
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as packed:
        packed.writestr(name, b"0" * 1000, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed") if refused else nullcontext():
        check_stored(tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    ("kind", "shape"), [("F32", [0, 2**63]), ("F32", [0, 2**62, 8]), ("F4", [4]), ("F8_E8M0", [4])]
)
def test_an_odd_tensor_beside_the_others_is_one_line(sent, capsys, kind, shape):
    path = sent / "decoder" / "export" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    size = 0 if 0 in shape else 2 if kind == "F4" else 4
    header["x"] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + size]}
    start = json.dumps(header).encode()
    path.write_bytes(len(start).to_bytes(8, "little") + start + data + bytes(size))
    with pytest.raises(InputError, match=r"model\.safetensors: x |has no x"):
        load_model(sent / "decoder")
    (sent / "decoder" / "config.yaml").write_text("model: {}\n")
    for words in ([], ["--half"]):
        code = main(["export", str(sent), "--out", f"out{len(words)}", "--stages", "decoder", *words])
        assert code in (0, 2) and capsys.readouterr().err.count("\n") == (code == 2)


def test_a_clip_of_8_bits_is_read_as_its_product(sent):
    """`unclip export --int8` leaves a CLIP in 16 bits, but a stranger may pack it."""
    file = sent / "clip" / "export" / "open_clip_model.safetensors"
    whole = load_file(file)
    true = FrozenCLIP(str(sent / "clip")).model.state_dict()
    small = {}
    for name, tensor in whole.items():
        small |= packed(name, tensor) if tensor.ndim > 1 else {name: tensor}
    save_file(small, file)
    read = FrozenCLIP(str(sent / "clip")).model.state_dict()
    assert read.keys() == true.keys()
    for name, tensor in true.items():
        step = tensor.flatten(1).abs().amax(dim=1) / 127 if tensor.ndim > 1 and f"{name}.int8_scale" in small else None
        off = (read[name] - tensor).abs()
        assert (off == 0).all() if step is None else (off.flatten(1).amax(dim=1) <= 0.5001 * step).all(), name


@pytest.mark.parametrize("row", [[0.0, 0.0], [1e-44, -1.9e-43], [3e38, -3e38], [1.0, -127.0]])
def test_packed_rows_keep_their_signs_and_sizes(row):
    matrix = torch.tensor([row, [1.0, -1.0]])
    found = unpacked(packed("x", matrix), Path("x"))["x"]
    assert ((found - matrix).abs() <= matrix.abs().amax(dim=1, keepdim=True) / 200 + 2e-44).all()


@pytest.mark.parametrize("stage", ["decoder", "linear_prior", "ar_prior"])
def test_weights_that_are_all_zero_are_none(weights_of, stage):
    def change(tensors):
        for name, tensor in tensors.items():
            tensors[name] = torch.zeros_like(tensor)

    with pytest.raises(InputError, match="all of its weights are 0"):
        load_model(weights_of(stage, change))


@pytest.mark.parametrize("steps", [10**9, 10**12, 0, -1])
def test_a_schedule_is_bounded(config_of, steps):
    def change(config):
        config["init_args"]["objective"] = {**(config["init_args"].get("objective") or {}), "num_steps": steps}

    with pytest.raises(InputError, match="num_steps must be a whole number from 1 to 100,000"):
        load_model(config_of("decoder", change))


@pytest.mark.parametrize("content", ["[1]", "a: [1", "3", "\ud800"])
def test_half_of_a_strangers_export_is_one_line(sent, capsys, content):
    (sent / "decoder" / "config.yaml").write_text("model: {}\n")
    (sent / "decoder" / "export" / "config.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert main(["export", str(sent), "--out", "out", "--stages", "clip,decoder", "--half"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "decoder/export/config.yaml" in error and not Path("out").exists()


def test_half_of_a_stage_of_another_clip_stays_another_clips(config_of, sent):
    (sent / "decoder" / "config.yaml").write_text("model: {}\n")
    config_of("decoder", lambda config: config.update(clip_fingerprint="0123456789abcdef"))
    assert main(["export", str(sent), "--out", "out", "--stages", "clip,decoder", "--half"]) == 0
    with pytest.raises(InputError, match="was trained on embeddings of the CLIP 0123456789abcdef"):
        TrainedRun("out").stage("decoder")


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {1: torch.ones(2)}},
        {"state_dict": {"network.a": "x"}},
        {"state_dict": {"network.a": torch.ones(2)}, "vocabulary": 5},
        {"state_dict": {"network.a": torch.ones(2)}, "vocabulary": ["a", 3]},
    ],
)
def test_a_checkpoint_to_start_from_holds_tensors_by_name(tmp_path, content):
    from modules.training.initial import read_source

    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"holds no training state|no list of words"):
        read_source(str(tmp_path / "a.ckpt"))


def test_an_old_pickle_is_refused_for_what_it_holds(tmp_path):
    import pickle

    from modules.training.initial import read_source

    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(ValueError))
    with pytest.raises(InputError, match=r"a\.ckpt cannot be read") as caught:
        read_source(str(tmp_path / "a.ckpt"))
    assert "mmap" not in str(caught.value)
