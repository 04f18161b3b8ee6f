"""CLIP's contrastive loss, by hand and beside open_clip's."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.clip.contrast import contrastive_loss
from modules.errors import InputError
from modules.models.data_sizes import DataSizes


def unit(seed: int, count: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_of_different_pairs_it_is_open_clips_to_the_last_bit():
    z_i, z_t, scale = unit(0), unit(1), torch.tensor(7.0)
    assert torch.equal(contrastive_loss(z_i, z_t, scale, torch.arange(6)), open_clip.ClipLoss()(z_i, z_t, scale))


def test_a_pair_that_occurs_again_is_no_negative_of_itself():
    """A batch of one pair alone, several times, has nothing to be told from: the loss is 0, and not ln 3."""
    z_i, z_t, scale = unit(0, 1).expand(3, 5), unit(1, 1).expand(3, 5), torch.tensor(7.0)
    assert contrastive_loss(z_i, z_t, scale, torch.tensor([4, 4, 4])) == 0
    assert contrastive_loss(z_i, z_t, scale, torch.tensor([4, 5, 6])) == pytest.approx(math.log(3))


def test_the_others_stay_negatives_of_each():
    z_i, z_t, scale, index = unit(0), unit(1), torch.tensor(2.0), torch.tensor([0, 1, 2, 1, 4, 5])
    logits = scale * z_i @ z_t.T
    logits[1, 3] = logits[3, 1] = -math.inf
    by_hand = -(logits.log_softmax(dim=1).diag() + logits.log_softmax(dim=0).diag()).mean() / 2
    assert_close(contrastive_loss(z_i, z_t, scale, index), by_hand)


def test_a_batch_that_is_larger_than_the_data_is_refused(tiny):
    stage = tiny.make_stage("clip")
    stage.check_settings(DataSizes(16, batch=64, pairs=lambda: 64))
    with pytest.raises(InputError, match="batches of 128 pairs over all devices, and the training split holds 64: "):
        stage.check_settings(DataSizes(16, batch=128, pairs=lambda: 64))
