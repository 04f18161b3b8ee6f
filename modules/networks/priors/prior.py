"""The interface of the networks of priors."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from modules.networks.priors.prior_conditioning import PriorConditioning, Standardisation

Denoise = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, D) and timesteps (B,) -> prediction (B, D), what is known of the captions being closed over."""


class PriorNetwork(nn.Module):
    """The network of a prior.

    Attributes:
        embedding_dim: D of the CLIP embeddings.
    """

    embedding_dim: int


class DenoisingPriorNetwork(PriorNetwork):
    """The network of a diffusion prior: it predicts z_i from a noised z_i, a timestep and what is known of the caption.

    Dropping the condition drops the caption and z_t only; the noised z_i and the timestep always stay.

    Attributes:
        conditioning: how captions and embeddings are taken.
        standardisation: of z_i, if it is diffused so.
    """

    conditioning: PriorConditioning = PriorConditioning()
    standardisation: Standardisation | None

    def __init__(self) -> None:
        super().__init__()
        self.standardisation = None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        z_t: Tensor,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """One evaluation, as training makes it.

        Args:
            x_t: (B, D) noised z_i, scaled.
            t: (B,) timesteps.
            tokens: (B, L) caption tokens, or (B, L, F) features of them for a network that reads features.
            z_t: (B, D) CLIP text embeddings, of unit norm unless `conditioning.raw`.
            keep: (B,) bool, False where the text is dropped; None keeps all.
            mask: (B, L) bool, False for padding; read only with `conditioning.padding_mask`, which needs it.

        Returns:
            (B, D) prediction, in the scale of x_t.
        """
        raise NotImplementedError

    def given(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Denoise:
        """`forward` for fixed captions: what depends on them alone is computed once, here."""
        raise NotImplementedError
