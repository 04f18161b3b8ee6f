"""What ranks send each other, in forked processes with gloo between them: contrast and statistics of unequal shares."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.clip.contrast import contrastive_loss
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.priors.embedding_statistics import EmbeddingStatistics

PAIRS, DIM = 9, 6


def unit(seed: int, count: int = PAIRS) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def child(work, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    torch.save(work(rank, world), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """`ranks(work, world)`: what `work(rank, world)` returns on every rank."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def run(work, world: int = 2) -> list:
        context = multiprocessing.get_context("fork")  # All is imported already.
        processes = [context.Process(target=child, args=(work, rank, world, tmp_path)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(90)
        assert [process.exitcode for process in processes] == [0] * world
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]

    return run


def share(x: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    return x[rank::world]


@pytest.mark.parametrize("world", [2, 4])
def test_a_validation_batch_of_unequal_shares_is_contrasted_with_all_pairs(ranks, world):
    """9 pairs on 2 ranks are 5 and 4. Weighted by its pairs, the ranks' losses are the loss of one process."""
    z_i, z_t, index, scale = unit(0), unit(1), torch.arange(PAIRS), torch.tensor(3.0)

    def work(rank: int, world: int) -> torch.Tensor:
        own = [share(x, rank, world) for x in (z_i, z_t, index)]
        with torch.no_grad():
            return contrastive_loss(own[0], own[1], scale, own[2], rank=rank, world=world)

    losses = torch.stack(ranks(work, world))
    weights = torch.tensor([len(share(index, rank, world)) for rank in range(world)])
    alone = contrastive_loss(z_i, z_t, scale, index)
    assert_close((losses * weights).sum() / PAIRS, alone)


def test_a_pair_that_two_ranks_hold_is_no_negative_of_itself(ranks):
    z_i, z_t, index, scale = unit(0, 4), unit(1, 4), torch.tensor([7, 2, 3, 7]), torch.tensor(3.0)
    z_i[3], z_t[3] = z_i[0], z_t[0]

    def work(rank: int, world: int) -> torch.Tensor:
        own = [x[2 * rank : 2 * rank + 2] for x in (z_i, z_t, index)]
        return contrastive_loss(own[0], own[1], scale, own[2], rank=rank, world=world)

    losses = torch.stack(ranks(work))
    assert_close(losses.mean(), contrastive_loss(z_i, z_t, scale, index))


@pytest.mark.parametrize("sample_size", [65_536, 10])
def test_the_codec_of_ranks_that_read_a_share_each_is_that_of_one(ranks, sample_size):
    """3 ranks, the last of which has nothing to read."""
    count = 40
    z_i, z_t, index = unit(2, count), unit(3, count), torch.arange(count)

    def statistics(rows: slice) -> EmbeddingStatistics:
        return EmbeddingStatistics.of(z_i[rows], z_t[rows], index[rows], sample_size)

    def work(rank: int, world: int) -> dict[str, torch.Tensor]:
        own = None if rank == 2 else statistics(slice(0, 25) if rank == 0 else slice(25, None))
        codec = EmbeddingCodec(DIM, 4, num_buckets=5, num_dot_buckets=3)
        found = EmbeddingStatistics.over_ranks(own, rank, world, DIM)
        codec.fit_statistics(found)
        return {**codec.state_dict(), "keys": found.keys, "count": torch.tensor(found.count)}

    results = ranks(work, 3)
    alone, codec = statistics(slice(None)), EmbeddingCodec(DIM, 4, num_buckets=5, num_dot_buckets=3)
    codec.fit_statistics(alone)
    expected = {**codec.state_dict(), "keys": alone.keys, "count": torch.tensor(count)}
    for result in results:
        assert torch.equal(result["keys"], expected["keys"])
        assert_close(result, expected, atol=1e-6, rtol=0)
        assert all(torch.equal(value, results[0][name]) for name, value in result.items())
