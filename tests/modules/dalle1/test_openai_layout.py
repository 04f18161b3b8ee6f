"""OpenAI's released dVAE: a module with its names, written here, gives the same numbers as ours with its weights."""

from __future__ import annotations

import itertools
import pickle
from collections import OrderedDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import nn

from experiments.cli import main
from modules.errors import InputError
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.openai_layout import from_openai, read_state_dict
from modules.models.exports import load_model


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * (inputs * kernel**2) ** -0.5)
        self.b = nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.w, self.b, padding=(self.w.shape[-1] - 1) // 2)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain, inner = gain, outputs // 4
        self.id_path = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        layers: list[tuple[str, nn.Module]] = []
        for k, kernel in enumerate(kernels):
            sizes = (inputs if k == 0 else inner, outputs if k == 3 else inner)
            layers += [(f"relu_{k + 1}", nn.ReLU()), (f"conv_{k + 1}", Conv(*sizes, kernel))]
        self.res_path = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


def released(
    first: nn.Module, widths: list[int], kernels: tuple[int, ...], resample: nn.Module, last: int
) -> nn.Module:
    """An encoder or decoder in the released layout: three groups of two blocks."""
    gain = 1 / (2 * (len(widths) - 1)) ** 2
    parts: list[tuple[str, nn.Module]] = [("input", first)]
    for k, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        blocks = [(f"block_{j + 1}", Block(inputs if j == 0 else outputs, outputs, kernels, gain)) for j in range(2)]
        if k < len(widths) - 1:
            blocks.append(("resample", resample))  # type: ignore[arg-type]
        parts.append((f"group_{k}", nn.Sequential(OrderedDict(blocks))))
    parts.append(("output", nn.Sequential(OrderedDict([("relu", nn.ReLU()), ("conv", Conv(widths[-1], last, 1))]))))
    made = nn.Module()
    made.blocks = nn.Sequential(OrderedDict(parts))
    made.forward = made.blocks.forward  # type: ignore[method-assign]
    return made


@pytest.fixture(scope="module")
def theirs() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = released(Conv(3, 8, 7), [8, 8, 16, 32], (3, 3, 3, 1), nn.MaxPool2d(2), 11)
    up = nn.Upsample(scale_factor=2, mode="nearest")
    decoder = released(Conv(11, 4, 1), [4, 32, 16, 8], (1, 3, 3, 3), up, 6)
    return encoder, decoder


def states(theirs) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return tuple({name: tensor.clone() for name, tensor in part.state_dict().items()} for part in theirs)


def test_their_weights_give_their_numbers(theirs):
    network, sizes = from_openai(*states(theirs), image_size=16)
    assert (sizes.num_codes, sizes.width, sizes.multipliers, sizes.blocks, sizes.first_width) == (
        11,
        8,
        [1, 2, 4],
        2,
        4,
    )
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        logits = theirs[0](x)
        assert torch.equal(network.encoder(x), logits)
        one_hot = F.one_hot(logits.argmax(1), 11).permute(0, 3, 1, 2).float()
        expected = theirs[1](one_hot)
        assert torch.equal(network.decoder(one_hot), expected)
        torch.testing.assert_close(network.decoder.of_tokens(logits.argmax(1)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("blocks.group_2.block_1.id_path.w"), "skip"),
        (lambda e: e.update({"blocks.extra.w": torch.zeros(1)}), "blocks.extra.w"),
        (lambda e: e.pop("blocks.input.w"), "input.weight"),
    ],
)
def test_a_tensor_that_is_missing_or_too_many_is_named(theirs, change, message):
    encoder, decoder = states(theirs)
    change(encoder)
    with pytest.raises(InputError, match=message):
        from_openai(encoder, decoder, 16)


def test_a_pickled_module_is_refused_with_the_way_to_convert_it(theirs, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "encoder.pkl")
    with pytest.raises(InputError, match="from dall_e import load_model"):
        read_state_dict(tmp_path / "encoder.pkl")
    (tmp_path / "list.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="a list, not a state dict"):
        read_state_dict(tmp_path / "list.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(partial(print, "run")))
    with pytest.raises(InputError, match="pickled modules"):
        read_state_dict(tmp_path / "evil.pkl")


def test_the_command_writes_a_stage_that_draws_as_theirs(theirs, tmp_path, capsys):
    files, run = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    words = ["import", "dvae", str(files), "--out", str(run), "--image-size", "16"]
    for name, state, write in zip(
        ("encoder.safetensors", "decoder.pt"), states(theirs), (save_file, torch.save), strict=True
    ):
        lost = name.partition(".")[0]
        assert main(words) == 2 and f"holds no {lost}: give a folder with" in capsys.readouterr().err
        write(state, files / name)
    assert main(words) == 0
    assert "dvae; README.md says whose they are" in capsys.readouterr().out
    model = load_model(run / "dvae", DVAEModel).model
    assert (model.image_size, model.grid) == (16, 4)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = theirs[0](0.8 * (images + 1) / 2 + 0.1).argmax(1)
    assert torch.equal(model.encode(images), expected)
    config = yaml.safe_load((run / "dvae" / "export" / "config.yaml").read_text())
    assert config["init_args"]["network"]["init_args"]["multipliers"] == [1, 2, 4]
    assert main(words) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    for size, told in (("18", "must be a multiple of 2^(groups - 1), 4"), ("0", "must be 1 or more")):
        assert main([*words[:-1], size, "--overwrite"]) == 2
        assert told in capsys.readouterr().err


def test_files_of_something_else_are_refused_in_words(theirs):
    encoder, decoder = states(theirs)
    ends = {name: tensor for name, tensor in encoder.items() if "group" not in name}
    for other in ({}, ends, {**encoder, "blocks.input.w": torch.zeros(())}):
        with pytest.raises(InputError, match="these are not the state dicts of OpenAI's encoder and decoder"):
            from_openai(other, decoder)
