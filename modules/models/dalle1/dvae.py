"""The dVAE: pictures to discrete tokens and back (DALL-E 1, section 2.1 and appendix A).

The encoder gives q(z | x), a categorical distribution over K codes at every place of the grid; the prior over codes is
uniform. Training relaxes the draw of a code by Gumbel noise and a softmax of temperature tau (Jang et al. 1611.01144).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.errors import InputError
from modules.models.base import Model
from modules.models.configs import check_value, number
from modules.models.dalle1.logit_laplace import as_images, nll, to_unit
from modules.models.data_sizes import NETWORK, DataSizes
from modules.networks.dalle1.dvae import DVAEEncoder, DVAENetwork, over_codes
from modules.placement.exact import exact


@dataclass(frozen=True)
class Terms:
    """The parts of the loss.

    Attributes:
        reconstruction: -ln p(x | z) in nats a colour value, a mean over the batch.
        kl: KL(q(z | x), uniform) in nats a token, a mean over the batch.
    """

    reconstruction: Tensor
    kl: Tensor


@dataclass(frozen=True, eq=False)
class DVAEModel(Model[ImageTextBatch]):
    """-ELBO with a weighted KL, in nats a colour value.

    Attributes:
        network: what is trained.
        beta: weight of the KL term; the paper's ends at 6.6.
        temperature: tau of the relaxation; the paper's ends at 1/16.
        smallest_scale: the scale b of a pixel's density is not taken to be smaller. 0, the paper's, has no bound: for
            photographs none is needed, on flat colours b would go to 0 and the density to infinity.
    """

    network: DVAENetwork
    beta: float = 6.6
    temperature: float = 1 / 16
    smallest_scale: float = 0.0

    def check(self) -> None:
        check_value("smallest_scale", self.smallest_scale, (number(0), "a number of 0 or more"))

    def check_data(self, sizes: DataSizes) -> None:
        side = self.network.image_size
        if sizes.image_size not in (None, side):
            raise InputError(
                f"{NETWORK}.image_size is {side}, data.init_args.image_size is {sizes.image_size}: make them equal"
            )

    @property
    def takes_pictures(self) -> bool:
        return True

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures."""
        return self.network.image_size

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.network.grid

    @property
    def values_per_token(self) -> int:
        """Colour values of a token's share of the picture: 8 x 8 x 3 = 192 in the paper."""
        return self.network.channels * self.network.factor**2

    def loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        """Reconstruction + beta / values_per_token x KL: both joint terms over the number of colour values (A.2)."""
        return self.weighted(self.parts(batch, generator))

    def weighted(self, terms: Terms) -> Tensor:
        """The loss of its parts."""
        return terms.reconstruction + self.beta / self.values_per_token * terms.kl

    def parts(self, batch: ImageTextBatch, generator: torch.Generator) -> Terms:
        """The two parts of the loss, with the relaxed draw in the decoder."""
        x = to_unit(batch.images)
        out = self.network(x, self.gumbel(len(x), generator).to(x.device), self.temperature)
        return Terms(self.reconstruction(x, out["parameters"]), kl_to_uniform(out["logits"]).mean())

    def true_parts(self, batch: ImageTextBatch, generator: torch.Generator) -> Terms:
        """The same for draws of codes that are not relaxed: the true bound. The same noise as in `parts`."""
        x = to_unit(batch.images)
        logits = self.network.encoder(x)
        tokens = (logits + self.gumbel(len(x), generator).to(x.device)).argmax(dim=1)
        return Terms(self.reconstruction(x, self.network.decoder.of_tokens(tokens)), kl_to_uniform(logits).mean())

    def reconstruction(self, x: Tensor, parameters: Tensor) -> Tensor:
        """-ln p(x | z) in nats a colour value, for x (B, C, H, W) in [eps, 1 - eps]."""
        mu, ln_b = parameters.float().chunk(2, dim=1)
        if self.smallest_scale:
            ln_b = ln_b.clamp(min=math.log(self.smallest_scale))
        return nll(x, mu, ln_b).mean()

    def gumbel(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, K, h, w) standard Gumbel noise, on the CPU, a place's K numbers beside each other in memory."""
        shape = (count, self.grid, self.grid, self.network.num_codes)
        return torch.empty(shape).exponential_(generator=generator).log_().neg_().permute(0, 3, 1, 2)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images in [-1, 1] -> (B, h, w) int64 tokens: the most likely codes, without noise."""
        found: Tensor = self.network.encoder(to_unit(images)).argmax(dim=1)
        return found

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """(B, h, w) int64 tokens -> (B, C, H, W) images in [-1, 1]."""
        return as_images(self.network.decoder.of_tokens(tokens).float())

    def example_batch(self, count: int) -> ImageTextBatch:
        side = self.image_size
        images = torch.zeros(count, self.network.channels, side, side)
        return ImageTextBatch(images, [""] * count, torch.zeros(count, dtype=torch.int64))

    def output(self, batch: ImageTextBatch) -> Tensor:
        x = to_unit(batch.images)
        found: Tensor = self.network(x, x.new_zeros(1, 1, 1, 1), self.temperature)["parameters"]
        return found


@torch.no_grad()
def spread_logits(encoder: DVAEEncoder, x: Tensor, spread: float) -> None:
    """Scale and shift an encoder's first and last convolution by what it gives for pictures (after 1602.07868).

    Afterwards the input of the first convolution has mean 0 and standard deviation 1. Over these pictures and their
    positions, the logits of each code have mean 0. All logits together have the standard deviation `spread`.

    Args:
        encoder: with fresh weights.
        x: (B, C, H, W) pictures in [eps, 1 - eps].
        spread: in nats.
    """
    first, last = encoder.input, encoder.output
    assert first.bias is not None and last.bias is not None
    first.weight.div_(x.std())
    first.bias.sub_(first.weight.sum(dim=(1, 2, 3)) * x.mean())
    deviation = encoder(x).std(dim=(0, 2, 3)).square().mean().sqrt()
    last.weight.mul_(spread / deviation)
    last.bias.sub_(encoder(x).mean(dim=(0, 2, 3)))


def kl_to_uniform(logits: Tensor) -> Tensor:
    """(B, K, h, w) logits -> (B, h, w) KL(softmax(logits), uniform) = ln K - entropy, in nats."""
    log_q = over_codes(F.log_softmax, logits.float())
    return (log_q.exp() * (log_q + math.log(logits.shape[1]))).sum(dim=1)


@dataclass(frozen=True)
class CodeUse:
    """How a set of tokens uses the codebook.

    Attributes:
        perplexity: exp of the entropy of the codes' frequencies, 1 to K.
        used: the share of the codes that occur at all.
    """

    perplexity: Tensor
    used: Tensor


def code_use(tokens: Tensor, num_codes: int) -> CodeUse:
    """Statistics of int64 tokens of any shape."""
    return use_of(torch.bincount(tokens.flatten(), minlength=num_codes))


def use_of(occurrences: Tensor) -> CodeUse:
    """Statistics of (K,) int64, how often each code occurs."""
    counts = exact(occurrences)
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    perplexity, used = entropy.exp().float(), (counts > 0).float().mean()
    return CodeUse(perplexity.to(occurrences.device), used.to(occurrences.device))
