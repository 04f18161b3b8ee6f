"""The dVAE's network: a picture to logits of tokens, a mixture of codes back to a picture (DALL-E 1, A.1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.dalle1.precision import in_float32


class BottleneckBlock(nn.Module):
    """skip(x) + gain x branch(x): a branch of four convolutions, a quarter as wide inside, a ReLU before each.

    Args:
        inputs, outputs: channels; the skip is a 1x1 convolution where they differ.
        kernels: sides of the four kernels. The encoder has 3, 3, 3, 1, the decoder 1, 3, 3, 3.
        gain: the small constant that the branch is multiplied by.
    """

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        inner = outputs // 4
        widths = [inputs, inner, inner, inner, outputs]
        self.gain = gain
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.branch = nn.ModuleList(
            conv(first, second, kernel) for first, second, kernel in zip(widths, widths[1:], kernels, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        h = x
        for layer in self.branch:
            h = layer(F.relu(h))
        return self.skip(x) + self.gain * h


def over_codes(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    """`function(x, dim=1)` of (B, K, h, w), for F.softmax and F.log_softmax, in the memory layout of x.

    torch computes both over the last dimension or copies x into another layout first.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return function(x.permute(0, 2, 3, 1), dim=-1).permute(0, 3, 1, 2)
    return function(x, dim=1)


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the side; weights normal with standard deviation 1 / sqrt(fan in), biases 0."""
    made = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2)
    nn.init.normal_(made.weight, std=1 / math.sqrt(inputs * kernel**2))
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made


class DVAEEncoder(nn.Module):
    """(B, C, H, W) in [eps, 1 - eps] -> (B, K, h, w) logits of the tokens, in float32.

    Args:
        num_codes: K.
        width: channels of the first group.
        multipliers: one for each group: its channels, as a multiple of `width`. Between groups is 2x2 max pooling.
        blocks: of each group.
        channels: C.
        gain: of the residual branches.
    """

    def __init__(
        self, num_codes: int, width: int, multipliers: Sequence[int], blocks: int, channels: int, gain: float
    ) -> None:
        super().__init__()
        self.input = conv(channels, width, 7)
        self.groups = groups([width, *(width * m for m in multipliers)], blocks, (3, 3, 3, 1), gain)
        self.output = conv(width * multipliers[-1], num_codes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for place, group in enumerate(self.groups):
            x = group(F.max_pool2d(x, 2) if place else x)
        with in_float32(x):  # Appendix D: the logits are float32.
            logits: Tensor = self.output(F.relu(x).float())
        return logits


class DVAEDecoder(nn.Module):
    """(B, K, h, w) weights of the codes -> (B, 2 C, H, W): mu, then ln b.

    Args:
        first_width: channels of the embedded codes.
        num_codes, width, multipliers, blocks, channels, gain: as of the encoder, gone through backwards.
    """

    def __init__(
        self,
        num_codes: int,
        first_width: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        channels: int,
        gain: float,
    ) -> None:
        super().__init__()
        self.input = conv(num_codes, first_width, 1)
        widths = [first_width, *(width * m for m in reversed(multipliers))]
        self.groups = groups(widths, blocks, (1, 3, 3, 3), gain)
        self.output = conv(widths[-1], 2 * channels, 1)

    def forward(self, codes: Tensor) -> Tensor:
        with in_float32(codes):  # As in the released code: float32 on both sides of the relaxation.
            x = self.input(codes.float())
        return self._from_input(x)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 tokens -> (B, 2 C, H, W): `forward` of their one-hot vectors, as a look-up."""
        assert self.input.bias is not None
        return self._from_input(
            F.embedding(tokens, self.input.weight[:, :, 0, 0].T).permute(0, 3, 1, 2) + self.input.bias[:, None, None]
        )

    def _from_input(self, x: Tensor) -> Tensor:
        for place, group in enumerate(self.groups):
            x = group(F.interpolate(x, scale_factor=2.0, mode="nearest") if place else x)
        found: Tensor = self.output(F.relu(x))
        return found


def groups(widths: Sequence[int], blocks: int, kernels: Sequence[int], gain: float) -> nn.ModuleList:
    """Groups of blocks; group g has widths[g + 1] channels."""
    return nn.ModuleList(
        nn.Sequential(
            *(BottleneckBlock(first if place == 0 else second, second, kernels, gain) for place in range(blocks))
        )
        for first, second in itertools.pairwise(widths)
    )


class DVAENetwork(nn.Module):
    """Encoder and decoder. The defaults are the paper's: 256 px become 32 x 32 tokens of 8,192 values.

    Args:
        image_size: side of the pictures in pixels.
        num_codes: K, the values of a token.
        width: channels of the encoder's first and the decoder's last group; a multiple of 4.
        multipliers: of the groups' widths, in the encoder's order. A picture has 2^(groups - 1) times the side of its
            grid of tokens.
        blocks: of each group.
        first_width: channels into which the decoder embeds the codes.
        channels: of the pictures.
        gain: of the residual branches; null for the paper's, 1 / (number of blocks of the encoder)^2.

    Raises:
        ValueError: sizes that do not go together.
    """

    def __init__(
        self,
        image_size: int = 256,
        num_codes: int = 8192,
        width: int = 256,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        first_width: int = 128,
        channels: int = 3,
        gain: float | None = None,
    ) -> None:
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        if image_size % self.factor or image_size < self.factor:
            raise ValueError(f"image_size ({image_size}) must be a multiple of 2^(groups - 1), {self.factor}")
        if width < 4 or width % 4:
            raise ValueError(f"width ({width}) must be a multiple of 4: branches are a quarter as wide inside")
        self.image_size, self.num_codes, self.channels = image_size, num_codes, channels
        own = 1 / (len(multipliers) * blocks) ** 2 if gain is None else gain
        self.encoder = DVAEEncoder(num_codes, width, multipliers, blocks, channels, own)
        self.decoder = DVAEDecoder(num_codes, first_width, width, multipliers, blocks, channels, own)

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.image_size // self.factor

    def forward(self, x: Tensor, noise: Tensor, temperature: float) -> dict[str, Tensor]:
        """The evaluation of a training step.

        Args:
            x: (B, C, H, W) in [eps, 1 - eps].
            noise: (B, K, h, w) standard Gumbel noise.
            temperature: tau of the relaxation (Jang et al. 1611.01144), softmax((logits + noise) / tau).

        Returns:
            "logits" (B, K, h, w) and "parameters" (B, 2 C, H, W), the decoder's mu and ln b.
        """
        logits = self.encoder(x)
        relaxed = over_codes(F.softmax, (logits + noise).div_(temperature))
        return {"logits": logits, "parameters": self.decoder(relaxed)}
