"""The metric objects: what the pure functions say, over any ranks, with an index to the bit; against torchmetrics."""

from __future__ import annotations

import copy
import warnings

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from eval.metrics.authenticity import authentic
from eval.metrics.bootstrap import Resampler
from eval.metrics.clip_score import clip_score
from eval.metrics.diversity import vendi_interval, vendi_score, within_caption_distance
from eval.metrics.frechet import FeatureStatistics, frechet_infinity
from eval.metrics.frechet_interval import frechet_interval
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel import cmmd, kid
from eval.metrics.objects.base import CaptionMean, CaptionMetric, CaptionShare, measured
from eval.metrics.objects.captions import CLIPScore, Diversity, InceptionScore, RPrecision
from eval.metrics.objects.distances import (
    CMMD,
    Authenticity,
    Frechet,
    FrechetInfinity,
    KernelDistance,
    PrecisionRecall,
    StreamingFrechet,
    Vendi,
    merge_packed,
    pack,
    unpack,
)
from eval.metrics.precision_recall import manifolds
from eval.metrics.retrieval import r_precision

N, D, DRAWS, SEED = 45, 6, 30, 3
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, D)).astype(np.float32)
TEXTS = RNG.normal(size=(N, D)).astype(np.float32)
REAL = (0.5 + RNG.normal(size=(60, D))).astype(np.float32)
CAPTIONS = np.arange(N) // 3
RESAMPLER = Resampler(CAPTIONS, DRAWS, SEED)
VALUES = np.where(np.arange(N) % 5 == 0, np.nan, RNG.random(N))

KNOWN = {
    "mean": (CaptionMean(DRAWS, SEED), (VALUES,), RESAMPLER.mean(VALUES)),
    "share": (CaptionShare(DRAWS, SEED), (np.ones(N),), RESAMPLER.share(np.ones(N))),
    "clip": (CLIPScore(DRAWS, SEED), (FEATURES, TEXTS), RESAMPLER.mean(clip_score(FEATURES, TEXTS))),
    "r_precision": (
        RPrecision(4, DRAWS, SEED),
        (FEATURES, TEXTS, CAPTIONS),
        RESAMPLER.share(r_precision(FEATURES, TEXTS, [f"caption {k}" for k in CAPTIONS], 4, SEED)),
    ),
    "diversity": (Diversity(DRAWS, SEED), (FEATURES,), RESAMPLER.mean(within_caption_distance(FEATURES, CAPTIONS))),
    "inception": (InceptionScore(None, DRAWS, SEED), (FEATURES,), inception_score(FEATURES, RESAMPLER)),
    "frechet": (
        Frechet(REAL, DRAWS, SEED),
        (FEATURES,),
        frechet_interval(FEATURES, FeatureStatistics.of(REAL), RESAMPLER),
    ),
    "infinity": (FrechetInfinity(REAL, DRAWS, SEED), (FEATURES,), frechet_infinity(FEATURES, REAL, seed=SEED)),
    "kid": (KernelDistance(REAL, DRAWS, SEED), (FEATURES,), kid(FEATURES, REAL, RESAMPLER)),
    "cmmd": (CMMD(REAL, DRAWS, SEED), (FEATURES,), cmmd(FEATURES, REAL, RESAMPLER)),
    "vendi": (Vendi(DRAWS, SEED), (FEATURES,), vendi_interval(FEATURES, RESAMPLER)),
}


def fresh(name: str) -> tuple[CaptionMetric, tuple[Tensor, ...]]:
    metric, seen, _ = KNOWN[name]
    return copy.deepcopy(metric), tuple(torch.from_numpy(np.asarray(each)) for each in seen)


def gathered(ranks: list[CaptionMetric]) -> CaptionMetric:
    """The first rank's metric as torchmetrics' own gathering over all ranks leaves it, without processes."""
    one = copy.deepcopy(ranks[0])
    states = [{name: getattr(m, name) for name in m._reductions} for m in ranks]
    for rank in states:
        for name, value in rank.items():
            rank[name] = torch.cat(value) if value else torch.tensor([])
    turn = iter(one._reductions)

    def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
        name = next(turn)
        torch.testing.assert_close(tensor, states[0][name], rtol=0, atol=0, equal_nan=True)
        return [rank[name] for rank in states]

    one._sync_dist(gather)
    return one


@pytest.mark.parametrize("name", KNOWN)
def test_one_update_gives_the_pure_functions_interval(name: str):
    metric, seen = fresh(name)
    metric.update(*seen, torch.from_numpy(CAPTIONS))
    assert metric.interval() == KNOWN[name][2]
    assert metric.compute().shape == () and metric.compute().item() == KNOWN[name][2].value


@pytest.mark.parametrize("name", KNOWN)
def test_one_of_several_processes_measures_alone(name: str, monkeypatch: pytest.MonkeyPatch):
    """`measured` has all samples: a sweep's first process would wait for ever for others that do not measure."""
    metric, seen = fresh(name)

    def gather(*_args, **_kwargs):
        raise AssertionError("another rank was waited for")

    monkeypatch.setattr(metric, "distributed_available_fn", lambda: True)
    monkeypatch.setattr(metric, "dist_sync_fn", gather)
    assert measured(metric, *seen, torch.from_numpy(CAPTIONS)) == KNOWN[name][2]
    for asks in (metric.interval, metric.compute):
        with pytest.raises(AssertionError, match="waited for"):
            asks()


@pytest.mark.parametrize("name", KNOWN)
def test_ranks_that_do_not_divide_the_samples_give_the_same_to_the_bit(name: str):
    """Two ranks see 23 and 22 samples in turn, in batches, the second one sample of the first again, as padding has."""
    ranks = []
    for rows in (np.arange(0, N, 2), np.append(np.arange(1, N, 2), 0)):
        metric, seen = fresh(name)
        for part in np.array_split(rows, 3):
            metric.update(*(each[part] for each in seen), torch.from_numpy(CAPTIONS)[part], torch.from_numpy(part))
        ranks.append(metric)
    assert gathered(ranks).interval() == KNOWN[name][2]


def test_precision_and_recall():
    metric = PrecisionRecall(REAL, DRAWS, SEED)
    metric.update(torch.from_numpy(FEATURES), torch.from_numpy(CAPTIONS))
    found = manifolds(FEATURES, REAL, captions=CAPTIONS)
    assert metric.intervals() == found.intervals(RESAMPLER)
    plain = PrecisionRecall(REAL)
    plain.update(torch.from_numpy(FEATURES))
    assert plain.compute()["recall"] == pytest.approx(found.recalled.mean())


def test_real_images_may_come_by_update():
    metric = KernelDistance()
    with pytest.raises(ValueError, match="no real images"):
        metric.reference  # noqa: B018
    for part in np.array_split(REAL, 3):
        metric.update(torch.from_numpy(part), real=True)
    metric.update(torch.from_numpy(FEATURES))
    x, y = (torch.from_numpy(each).double() for each in (FEATURES, REAL))
    (xx, yy, xy) = ((a @ b.T / D + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    assert metric.compute().item() == pytest.approx(_unbiased(xx, yy, xy), rel=1e-10)
    square = torch.from_numpy(REAL[:N]).double()
    oracle = poly_mmd(x, square).item()
    small = KernelDistance(REAL[:N])
    small.update(torch.from_numpy(FEATURES))
    assert small.compute().item() == pytest.approx(oracle, rel=1e-10)


def _unbiased(xx: Tensor, yy: Tensor, xy: Tensor) -> float:
    n, m = len(xx), len(yy)
    own = (xx.sum() - xx.diag().sum()) / (n * (n - 1)) + (yy.sum() - yy.diag().sum()) / (m * (m - 1))
    return float(own - 2 * xy.mean())


def test_frechet_is_torchmetrics_one():
    features = torch.nn.Identity()
    features.num_features = D
    oracle = FrechetInceptionDistance(features)
    oracle.update(torch.from_numpy(FEATURES), real=False)
    oracle.update(torch.from_numpy(REAL), real=True)
    oracle.orig_dtype = torch.float64
    streaming, whole = StreamingFrechet(D), Frechet(REAL)
    for part in np.array_split(FEATURES, 4):
        streaming.update(torch.from_numpy(part))
    streaming.update(torch.from_numpy(REAL), real=True)
    whole.update(torch.from_numpy(FEATURES))
    assert streaming.compute().item() == pytest.approx(oracle.compute().item(), abs=1e-10)
    assert whole.compute().item() == pytest.approx(oracle.compute().item(), abs=1e-10)


def test_streaming_statistics_merge_over_ranks_without_losing_digits():
    far = FEATURES.astype(np.float64) + 1e6  # sums of squares would lose 12 digits
    parts = [FeatureStatistics.of(part) for part in np.array_split(far, 5)]
    merged = unpack(merge_packed(torch.stack([pack(part) for part in parts])))
    np.testing.assert_allclose(merged.covariance, np.cov(FEATURES.T.astype(np.float64)), rtol=1e-6)
    first, second = StreamingFrechet(D), StreamingFrechet(D)
    for metric, rows in ((first, slice(0, 7)), (second, slice(7, N))):
        metric.update(torch.from_numpy(FEATURES[rows]))
        metric.update(torch.from_numpy(REAL[rows]), real=True)
    first.merge_state(second)
    whole = Frechet(REAL[:N])
    whole.update(torch.from_numpy(FEATURES))
    assert first.compute().item() == pytest.approx(whole.compute().item(), abs=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert StreamingFrechet(2).compute().isnan()


def test_vendi_is_the_entropy_of_the_kernels_eigenvalues():
    x = FEATURES / np.linalg.norm(FEATURES.astype(np.float64), axis=1, keepdims=True)
    values = np.linalg.eigvalsh(x @ x.T / N)
    values = values[values > 1e-12]
    assert vendi_score(FEATURES) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-10)
    assert vendi_score(np.eye(4)) == pytest.approx(4) and vendi_score(np.ones((5, 3))) == pytest.approx(1)
    assert vendi_score(FEATURES[:9], np.arange(9)) == pytest.approx(
        vendi_score(np.repeat(FEATURES[:9], np.arange(9), 0))
    )


def test_vendi_is_that_of_its_authors_package():
    from vendi_score import vendi

    for x in (FEATURES.astype(np.float64), FEATURES[:4].astype(np.float64)):
        assert vendi_score(x) == pytest.approx(vendi.score_dual(x, normalize=True), rel=1e-10)


def test_copies_are_not_authentic():
    rng = np.random.default_rng(1)
    real, other = rng.normal(size=(50, 4)), rng.normal(size=(30, 4))
    copies = real[:10] + 1e-6
    found = authentic(np.concatenate([copies, other]), real)
    assert not found[:10].any()
    apart = np.linalg.norm(real[:, None] - real[None], axis=-1) + np.diag([np.inf] * 50)
    across = np.linalg.norm(real[:, None] - other[None], axis=-1)
    expected = apart.min(0)[across.argmin(0)] < across.min(0)
    np.testing.assert_array_equal(found[10:], expected)
    metric = Authenticity(real)
    metric.update(torch.from_numpy(other))
    assert metric.compute().item() == pytest.approx(100 * expected.mean())


def test_the_extrapolation_finds_the_distance_of_infinitely_many():
    """Of d dimensions the expected distance is FD + b / n to first order: Gaussians with a known distance."""
    rng = np.random.default_rng(2)
    features, real = rng.normal(size=(3000, 4)), rng.normal(size=(200_000, 4)) + np.array([1.0, 0, 0, 0])
    found = frechet_infinity(features, real)
    assert found.low < found.value < found.high and found.value == pytest.approx(1.0, abs=0.15)
    with pytest.raises(ValueError, match="needs 30 samples"):
        frechet_infinity(features[:29], real)


class Judging(lightning.LightningModule):
    """Somebody's module that logs metrics of ours in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.kid, self.score, self.fd = KernelDistance(REAL), CLIPScore(DRAWS), StreamingFrechet(D)
        self.manifold = PrecisionRecall(REAL)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        features, texts, captions, index = batch
        self.kid.update(features, captions, index)
        self.score.update(features, texts, captions, index)
        self.manifold.update(features, captions, index)
        self.fd.update(features)
        if batch_idx == 0:
            self.fd.update(torch.from_numpy(REAL), real=True)
        for name, metric in (("kid", self.kid), ("clip_score", self.score), ("fd", self.fd)):
            self.log(name, metric)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.manifold.compute())
        self.manifold.reset()


def test_a_lightning_module_logs_them_as_it_logs_any(tmp_path):
    parts = (FEATURES, TEXTS, CAPTIONS, np.arange(N))
    data = TensorDataset(*(torch.from_numpy(part) for part in parts))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)
    module = Judging()
    for _ in range(2):  # Lightning resets them after each validation
        (found,) = trainer.validate(module, DataLoader(data, 8), verbose=False)
        assert found["kid"] == pytest.approx(KNOWN["kid"][2].value, rel=1e-6)
        assert found["clip_score"] == pytest.approx(KNOWN["clip"][2].value, rel=1e-6)
        assert found["fd"] == pytest.approx(KNOWN["frechet"][2].value, rel=1e-6)
        assert found["recall"] == pytest.approx(manifolds(FEATURES, REAL).recalled.mean(), rel=1e-6)


def test_float64_states_stay_on_the_cpu_of_a_device_without():
    """Apple's MPS raises a TypeError; other states go to the device."""

    def to_device(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.to("meta")

    metric = StreamingFrechet(D)
    metric._apply(to_device)
    assert metric.device.type == "meta" and metric.samples.device.type == "cpu"
    metric.update(torch.from_numpy(FEATURES))
    metric.update(torch.from_numpy(REAL), real=True)
    assert metric.compute().item() == pytest.approx(KNOWN["frechet"][2].value, rel=1e-10)
    halved = StreamingFrechet(D).half()
    assert halved.samples.dtype == torch.float64


def test_an_index_is_for_all_updates_or_none():
    metric = CaptionMean()
    metric.update(torch.ones(2), index=torch.arange(2))
    with pytest.raises(ValueError, match="every update or in none"):
        metric.update(torch.ones(2))
    with pytest.raises(ValueError, match="rows of one length"):
        metric.update(torch.ones(2), torch.zeros(3))
