"""SAM in two processes: each perturbs by the gradient of its own batch, and the loss behind is over all pairs."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from datamodules.order import SeededBatchSampler
from modules.clip import contrast
from modules.clip.sam import Perturbation
from modules.clip.word_tokenizer import WordTokenizer

pytestmark = pytest.mark.timeout(600)  # the first test waits for the processes

WORLD, SIZE = 2, 4


def batches(data):
    """The first one of each rank."""
    rows = data.dataset("train")
    samplers = [SeededBatchSampler(len(rows), SIZE, 0, total=1, rank=rank, world=WORLD) for rank in range(WORLD)]
    return [rows.__getitems__(next(iter(sampler))) for sampler in samplers]


def perturbed(stage, parts, over):
    """The network of each rank, moved along the gradient of its loss over `over[rank]`."""
    networks = [copy.deepcopy(stage.network) for _ in parts]
    for network, own in zip(networks, over, strict=True):
        climb = Perturbation(list(network.parameters()), 0.5).climb
        climb(lambda network=network, own=own: sum(stage._loss(network, part, gathered=False)[0] for part in own))
    return networks


def gradients(stage, networks, parts):
    """What DDP makes of the loss over all pairs, each rank's features being those of its own network."""
    outs = [
        network(stage._resized(part.images), stage.tokenize(part.captions))
        for network, part in zip(networks, parts, strict=True)
    ]
    every = [torch.cat([out[name] for out in outs]) for name in ("image_features", "text_features")]
    every.append(torch.cat([part.index for part in parts]))
    total = torch.zeros(())
    for rank, (network, part) in enumerate(zip(networks, parts, strict=True)):
        here = (
            mock.patch.object(type(stage), "global_rank", rank),
            mock.patch.object(contrast, "gathered", mock.Mock(side_effect=every)),
        )
        with here[0], here[1]:
            total = total + stage._loss(network, part)[0]
    total.backward()
    named = zip(*(network.named_parameters() for network in networks), strict=True)
    return {first[0]: (first[1].grad + second[1].grad) / WORLD for first, second in named}


@pytest.fixture(scope="module")
def by_hand(tiny, worker, embeddings):
    """(stage, its ranks' batches), as each rank has them at the first step."""
    stage, data = worker.stage_of(tiny, "clip_sam"), worker.data_of("clip_sam", str(embeddings), SIZE)
    stage.tokenize = WordTokenizer(data.vocabulary(), tiny.VOCABULARY_SIZE, tiny.CONTEXT)
    stage._trainer = SimpleNamespace(world_size=WORLD)
    return stage, batches(data)


def test_each_rank_perturbs_on_its_own_batch(two, by_hand, worker, rounding):
    stage, parts = by_hand
    expected = gradients(stage, perturbed(stage, parts, [[part] for part in parts]), parts)
    for rank in range(WORLD):
        assert worker.apart(two("ddp_clip_sam", rank)["gradients"][0], expected) <= rounding("clip_sam")
    # Perturbed on both batches, or not at all, the gradients would be others.
    for networks in (perturbed(stage, parts, [parts] * WORLD), [copy.deepcopy(stage.network) for _ in parts]):
        others = gradients(stage, networks, parts)
        assert max(float((others[n] - g).abs().max()) for n, g in expected.items()) > 1e-3


def test_the_weights_of_the_ranks_are_the_same_when_they_are_back(two):
    first, second = (two("ddp_clip_sam", rank)["weights"] for rank in range(WORLD))
    assert_close(first, second, atol=0, rtol=0)
