"""The learning-rate schedule."""


def learning_rate_schedule(config, rate, steps):
    """The library's schedule, counted in optimizer updates."""
    from ppdiffusers.optimization import get_scheduler

    return get_scheduler(
        config.optimizer.lr_scheduler,
        learning_rate=rate,
        num_warmup_steps=config.optimizer.lr_warmup_steps,
        num_training_steps=max(
            steps, config.optimizer.lr_warmup_steps + 1
        ),  # polynomial divides by what is left after it
        num_cycles=config.optimizer.lr_num_cycles,
        power=config.optimizer.lr_power,
    )
