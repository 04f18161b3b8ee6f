"""The mathematics of diffusion: pure functions and frozen dataclasses; no networks, no Lightning.

    schedules   NoiseSchedule; linear, cosine; the door to the next two files
    noise_schedule      NoiseSchedule: values at each timestep, and ``schedule.at(t, like=x)`` for those of a batch
    spacing     respacing to fewer steps
    tables      the schedule's values on each device
    gaussian    q(x_t | x_0), its posterior, conversions among x0, epsilon and v
    denoiser    a network's raw output -> Prediction(x0, epsilon, variance_fraction); thresholding
    losses      weighted x0 / epsilon / v losses; the hybrid loss of a learned sigma
    bound       the variational bound, term by term, in bits per dimension
    analytic    Analytic-DPM's optimal reverse variance and the statistic it needs
    samplers/   ddpm, ddim, ddim_invert, analytic_dpm, dpm_solver_pp: a step each, and the loop that they share
    inpainting  RePaint, a step for the same loop
    guidance    classifier-free guidance of networks and of logits
    clip_guidance       CLIP guidance
    timestep_sampling   which timesteps a training batch sees

A *model* is a network with its conditioning closed over: ``(x_t, t) -> raw output``. A *denoiser* is
``(x_t, t) -> Prediction``. Guidance turns a model into a model, ``as_denoiser`` a model into a denoiser, and a sampler
takes a denoiser. ``t`` is always an int64 tensor (B,) of the timesteps that the network was trained on, 0 to T - 1.
"""
