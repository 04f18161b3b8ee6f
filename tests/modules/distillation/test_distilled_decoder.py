"""A distilled decoder gives in one evaluation what its teacher gives under guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.diffusion.samplers.distillation import trajectory_pairs
from modules.distillation.decoder import DistilledDecoder
from modules.errors import InputError
from modules.models.configs import SamplerConfig
from modules.models.decoder import DecoderModel, no_captions
from modules.models.exports import load_model
from modules.training.stage import TrainingConfig

GUIDANCE = 3.0
LIMIT = 0.75
TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.95, decay_share=0.5)


@pytest.fixture
def make(tiny, stored_run):
    def make(steps=4, **changes):
        teacher = load_model(stored_run / "decoder", DecoderModel).model
        settings = {
            "teacher": str(stored_run / "decoder"),
            "teacher_guidance": GUIDANCE,
            "objective": teacher.objective,
            "sampler": SamplerConfig(name="ddim", steps=steps),
            "optimizer": lambda params: torch.optim.AdamW(params, lr=2e-3),
            "training": TRAINING,
            **changes,
        }
        return DistilledDecoder(tiny.make_network("decoder"), **settings)

    return make


def test_it_starts_as_the_teacher_and_learns_its_guidance(make, shapes, tiny, tmp_path, stored_run):
    """Its mean squared distance from the guided teacher falls, on the pictures that it is trained on.

    The teacher is a network of random weights. Measured: to 0.55 of what it is for the teacher
    without guidance.
    """
    data = tiny.repeat(shapes(), shapes().dataset("train").__getitems__(list(range(8))), 200)
    batch = shapes().dataset("train").__getitems__(list(range(8)))
    stage = make(drop_text=0.0, drop_embedding=0.0)

    def distance(network):
        stage_now = make(drop_text=0.0, drop_embedding=0.0)
        stage_now.network.load_state_dict(network.state_dict())
        with torch.no_grad():
            losses = [stage_now.eval().training_loss(batch, torch.Generator().manual_seed(k)) for k in range(10)]
        return torch.stack(losses).mean().item()

    untrained = distance(stage.teacher.network)
    tiny.fit(stage, data, 200, tmp_path)
    assert distance(stage.averaged) < LIMIT * untrained, (distance(stage.averaged), untrained)


@pytest.mark.parametrize("progressive", [False, True])
def test_its_first_loss_is_the_distance_of_teacher_and_guided_teacher(make, shapes, stored_run, progressive):
    """Where guidance is 1 and steps are not distilled, the student has nothing to learn."""
    stage, batch = make(progressive=progressive), shapes().dataset("train").__getitems__(list(range(4)))
    nothing = make(progressive=progressive, teacher_guidance=1.0)
    losses = []
    for each in (stage, nothing):
        each.network.load_state_dict(each.teacher.network.state_dict())
        each.network.eval()
        with torch.no_grad():
            losses.append(each.training_loss(batch, torch.Generator().manual_seed(0)).item())
    assert losses[0] > 0
    if progressive:
        assert 0 < losses[1] < losses[0]
    else:  # Apart from the threshold, which the student's output does not know.
        assert losses[1] < 0.2 * losses[0]


def test_what_is_dropped_is_dropped_for_both(make, shapes, monkeypatch):
    """Under guidance the teacher is asked once more, without any condition."""
    stage = make(drop_text=0.5, drop_embedding=0.5)
    batch = shapes().dataset("train").__getitems__(list(range(16)))
    seen: dict[str, list[torch.Tensor]] = {"keep_text": [], "keep_embedding": []}
    bare = []
    for network in (stage.network, stage.teacher.network):

        def condition(tokens, z_i, *, whole=network.condition, **keep):
            for name, mask in keep.items():
                seen[name].append(mask)
            if not keep:
                bare.append(z_i)
            return whole(tokens, z_i, **keep)

        monkeypatch.setattr(network, "condition", condition)
    stage.training_loss(batch, torch.Generator().manual_seed(0))
    for first, second in seen.values():  # Of the teacher and of the student.
        assert torch.equal(first, second) and 0 < first.sum() < 16
    assert not torch.equal(seen["keep_text"][0], seen["keep_embedding"][0])
    assert bare == [None]


@torch.no_grad()
def test_guidance_leads_from_no_condition_to_the_condition(make, shapes):
    """With a scale of 0 it is the prediction without any."""
    stage, batch = make(teacher_guidance=0.0), shapes().dataset("train").__getitems__(list(range(4)))
    teacher, whole = stage.teacher, torch.ones(4, dtype=torch.bool)
    tokens, z_i = stage.model.conditions(batch)
    t, _, x_t = stage.model.drawn(stage.model.in_layout(batch.images), torch.Generator().manual_seed(0))
    found = stage._guided(tokens, z_i, {"keep_text": whole, "keep_embedding": whole})(x_t, t)
    network, threshold = teacher.network, teacher.sampler.threshold
    for condition, same in (
        (network.condition(no_captions(tokens), None), True),
        (network.condition(tokens, z_i), False),
    ):
        alone = teacher.as_denoiser(lambda x, t, c=condition: network(x, t, c), threshold)(x_t, t)
        assert torch.allclose(found.x0, alone.x0, atol=1e-5) == same


def test_validation_looks_at_the_average_and_progressive_steps_begin_where_the_trajectory_does(make, shapes):
    stage, batch = make(progressive=True), shapes().dataset("train").__getitems__(list(range(8)))
    asked = {"trained": [], "average": []}
    for name, network in (("trained", stage.network), ("average", stage.averaged)):
        network.register_forward_pre_hook(lambda _, arguments, name=name: asked[name].append(arguments[1]))
    stage.training_loss(batch, torch.Generator().manual_seed(0))
    assert (len(asked["trained"]), len(asked["average"])) == (1, 0)
    stage.validation_loss(batch, torch.Generator().manual_seed(0))
    assert (len(asked["trained"]), len(asked["average"])) == (1, 1)
    starts = trajectory_pairs(stage.objective.noise_schedule, 4, stage.model.sampler.spacing)[:, 0].tolist()
    assert set(asked["trained"][0].tolist()) <= set(starts)


def test_it_starts_as_the_teacher_unless_it_goes_on(make, monkeypatch):
    stage = make()
    before = {name: tensor.clone() for name, tensor in stage.network.state_dict().items()}
    monkeypatch.setattr(type(stage), "global_step", 3)
    stage.on_fit_start()
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.network.state_dict().items())
    monkeypatch.setattr(type(stage), "global_step", 0)
    stage.on_fit_start()
    for network in (stage.network, stage.averaged):
        for name, tensor in stage.teacher.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name


def test_the_teacher_is_in_no_checkpoint(make):
    stage = make()
    names = set(stage.state_dict())
    assert stage.teacher.network is not stage.network
    assert set(stage.state_dict()) == names
    assert not any(p is q for p in stage.parameters() for q in stage.teacher.network.parameters())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sampler": SamplerConfig(name="ddim", steps=4, guidance_scale=2.0)}, "has learned it"),
        ({"progressive": True, "sampler": SamplerConfig(name="ddpm", steps=4)}, "sampler.name is ddpm: .* for ddim"),
        ({"progressive": True, "sampler": SamplerConfig(name="ddim", steps=4, eta=0.5)}, "sampler.eta is 0.5"),
        (
            {"progressive": True, "sampler": SamplerConfig(name="ddim", steps=900)},
            "there is none, .*take ",
        ),
    ],
)
def test_samplers_that_do_not_fit_are_refused(make, changes, reason):
    with pytest.raises(InputError, match=reason):
        make(**changes).check_start()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameterization": "v"}, "objective.parameterization is v, that of the teacher in .* is "),
        ({"schedule": "linear"}, "objective.schedule is linear, that of the teacher in .* is "),
    ],
)
def test_a_student_whose_output_means_something_else_is_refused(make, change, reason):
    stage = make()
    stage = make(objective=replace(stage.objective, **change))
    with pytest.raises(InputError, match=reason):
        _ = stage.teacher


def test_a_student_may_have_another_loss_than_its_teacher(make, shapes):
    """Errors far above pseudo-Huber's scale count for less."""
    batch, losses = shapes().dataset("train").__getitems__(list(range(4))), []
    for scale in (None, 0.01):
        stage = make(objective=replace(make().objective, huber_scale=scale))
        stage.network.load_state_dict(stage.teacher.network.state_dict())
        losses.append(stage.eval().training_loss(batch, torch.Generator().manual_seed(0)).item())
    assert 0 < losses[1] < losses[0]


def test_a_resumed_training_goes_on_from_its_own_weights(make, shapes, tiny, tmp_path):
    """And not from the teacher's, with which it began."""
    settings = {"training": TrainingConfig(warmup_steps=0, ema_decay=0.5)}
    whole, first, again = make(**settings), make(**settings), make(**settings)
    tiny.fit(whole, shapes(), 4, tmp_path / "whole")
    tiny.fit(first, shapes(), 2, tmp_path / "first").save_checkpoint(tmp_path / "saved.ckpt")
    tiny.fit(again, shapes(), 4, tmp_path / "again", tmp_path / "saved.ckpt")
    torch.testing.assert_close(again.network.state_dict(), whole.network.state_dict())
