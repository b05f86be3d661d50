"""Noise on latents, and what the network is to predict."""

import paddle

from dreambooth.system import randomness


def noised(family, encoding, batch, seed):
    """Noise a micro-batch: (latents, noise, timesteps, noisy latents), each a function of the seed and the example's
    place in the run."""
    spread = randomness.normal(seed, "latent", batch.places, tuple(encoding["mean"].shape[1:]))
    latents = family.draw_latents(encoding, paddle.to_tensor(spread))
    added = paddle.to_tensor(randomness.normal(seed, "noise", batch.places, tuple(latents.shape[1:])))
    steps = family.schedule.config.num_train_timesteps
    timesteps = paddle.to_tensor(randomness.integers(seed, "timestep", batch.places, steps))
    return latents, added, timesteps, family.schedule.add_noise(latents, added, timesteps)


def target(schedule, latents, noise, timesteps):
    """What the network should say: the noise, or the velocity where the schedule says so (Salimans & Ho 2022)."""
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(latents, noise, timesteps)
    return noise
