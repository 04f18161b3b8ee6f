"""`test` measures what `validate` does, on the averaged weights; `predict` draws, each sample from noise of its own."""

from __future__ import annotations

import lightning
import pytest
import torch
from torch.testing import assert_close

from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.seeds import image_generators
from modules.training.stage import TrainingConfig

NAMES = ("clip", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler")


@pytest.fixture
def ready(tiny, shapes):
    """A stage whose average differs from its network, with all that fitting gives it, and its data."""

    def make(name: str, seed: int = 0, batch_size: int = 4):
        data = shapes(batch_size=batch_size, image_size=32 if name == "upsampler" else 16)
        module = tiny.make_stage(name, training=TrainingConfig(seed=seed))
        tiny.randomise(module.averaged, seed=1)
        if name == "ar_prior":
            rows = data.dataset("train").__getitems__(range(64)).embeddings
            module.codec.fit(rows.z_i, rows.z_t)
        return module, data

    return make


def trainer(tmp_path, **settings):
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=str(tmp_path),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )


@pytest.mark.parametrize("name", NAMES)
def test_test_is_validate_on_other_data(tiny, ready, tmp_path, name):
    module, data = ready(name)
    run = trainer(tmp_path, limit_val_batches=2, limit_test_batches=2)
    data.test_dataloader = data.val_dataloader  # The same data, for once.
    (validated,) = run.validate(module, data, verbose=False)
    (tested,) = run.test(module, data, verbose=False)
    assert set(tested) == {key.replace("val/", "test/") for key in validated}
    for key, value in validated.items():
        assert_close(tested[key.replace("val/", "test/")], value, rtol=1e-6, atol=1e-7)
    tiny.randomise(module.network, seed=2)  # It is the average that is measured.
    assert run.test(module, data, verbose=False) == [tested]


@pytest.mark.parametrize("name", NAMES)
def test_predictions_depend_on_seed_and_sample_alone(ready, tmp_path, name):
    def predict(seed, batch_size):
        module, data = ready(name, seed, batch_size)
        parts = trainer(tmp_path, limit_predict_batches=12 // batch_size).predict(module, data)
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    first, smaller, other = predict(0, 6), predict(0, 4), predict(1, 6)
    keys = {"clip": {"z_i", "z_t"}, "decoder": {"images"}, "glide": {"images"}, "upsampler": {"images"}}
    assert set(first) == {"index", *keys.get(name, {"z_i"})}
    assert first["index"].tolist() == list(range(12))
    for key in keys.get(name, {"z_i"}):
        a, b, c = (found[key].float() for found in (first, smaller, other))
        assert (a - b).abs().max() <= (1 if key == "images" else 1e-5)
        random = name not in ("clip", "linear_prior")
        assert ((a - c).abs().max() > 1e-4) == random
        if key == "images":
            side = 32 if name == "upsampler" else 16
            assert first[key].dtype == torch.uint8 and a.shape == (12, 3, side, side)
        else:
            assert_close(a.norm(dim=1), torch.ones(12))


def test_predictions_are_what_sampling_gives(ready, tmp_path):
    module, data = ready("ar_prior")
    (found,) = trainer(tmp_path, limit_predict_batches=1).predict(module, data)
    rows = data.dataset("test").__getitems__(range(4)).embeddings
    generators = image_generators(0, [(k, 0) for k in range(4)], "predict")
    model = ARPriorModel(module.averaged.eval(), module.codec, guidance_scale=1.5, percentile=50.0)
    z_i = model.sample(rows.captions, generators)
    assert_close(found["z_i"], z_i)
