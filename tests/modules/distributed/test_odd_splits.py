"""What two ranks measure of a split that they do not divide is what one process measures of it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(600)  # the first test waits for the processes

DRAWN = ("val/loss", "val/psnr", "val/ssim")
"""Of noise, which each rank draws for itself."""


@pytest.mark.parametrize("name", ["classifier", "upsampler"])
def test_validation_is_over_samples(two, worker, tiny, tmp_path, name):
    """Accuracies of attributes, PSNR and SSIM: a mean over ranks would weigh 7 and 6 samples alike."""
    alone = worker.odd_validation(tiny, name, tmp_path)
    compared = alone.keys() - set(DRAWN)
    assert len(compared) >= 2
    for rank in range(2):
        together = two("odd", rank)[name]
        assert together.keys() == alone.keys()
        assert {key: together[key] for key in compared} == pytest.approx({k: alone[k] for k in compared}, rel=1e-5)


def test_metric_objects_are_the_same_to_the_bit(two, worker):
    alone = worker.odd_metrics()
    for rank in range(2):
        together = two("odd", rank)["metrics"]
        for name in ("share", "kid", "frechet"):
            assert together[name] == alone[name]
        assert together["sums"] == pytest.approx(alone["sums"], rel=1e-10)
