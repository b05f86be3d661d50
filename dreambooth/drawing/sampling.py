"""Drawing pictures with a pipeline: a picture is a function of (seed, its number) and the settings, whatever is drawn
beside it."""

from dreambooth.models import schedulers
from dreambooth.system import processes, randomness
from dreambooth.system.errors import BadInput

GUIDANCE = 7.5  # for pictures that a training run draws: of the class, and for validation


def check_size(pipeline, height, width):
    if schedulers.is_unidiffuser(pipeline) and (height, width) != default_size(pipeline):
        own_height, own_width = default_size(pipeline)
        raise BadInput(f"--height {height}, --width {width}: this model draws {own_width} x {own_height} only")
    factor = max(8, pipeline.vae_scale_factor)
    for name, size in (("height", height), ("width", width)):
        if size <= 0 or size % factor:
            raise BadInput(f"--{name} {size}: must be a positive multiple of {factor}")


def check_settings(arguments, counts):
    """Refuse numbers of a drawing command that can't be; `counts` are the flags that count something."""
    for name in counts:
        if getattr(arguments, name) < 1:
            raise BadInput(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.seed < 0:
        raise BadInput(f"--seed {arguments.seed}: must be at least 0")
    if not 0 <= arguments.guidance_scale < float("inf"):
        raise BadInput(f"--guidance_scale {arguments.guidance_scale}: must be a number from 0 up")


def check_steps(pipeline, steps, flag="--num_inference_steps"):
    most = pipeline.scheduler.config.num_train_timesteps
    if steps > most:
        raise BadInput(f"{flag} {steps}: the model has {most}")


def default_size(pipeline):
    """(height, width) that the model was made for."""
    size = pipeline.unet.config.sample_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def draw(pipeline, wanted, *, seed, purpose, height, width, steps, guidance, batch_size, negative_prompt=None):
    """Yield a picture for each (prompt, number) in `wanted`, in order."""
    import paddle

    # without a text, UniDiffuser's guidance is a text of new noise in every step
    stochastic = schedulers.is_stochastic(pipeline.scheduler) or schedulers.is_unidiffuser(pipeline)
    if stochastic or not processes.is_on_gpu():
        # Paddle has one generator; alone, a picture can have it to itself. And on the CPU a batch saves little, but its
        # size changes how the sums of a matrix product are split: some pixels would differ by one level.
        batch_size = 1
    encoded = Prompts(pipeline, negative_prompt, guidance)
    for first in range(0, len(wanted), batch_size):
        prompts, numbers = zip(*wanted[first : first + batch_size])
        if stochastic:
            paddle.seed(int(randomness.integers(seed, f"{purpose} steps", [numbers], 2**31)[0]))
        yield from pipeline(
            **encoded.take(prompts),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            **first_latents(pipeline, seed, purpose, numbers, height, width),
        ).images


class Prompts:
    """Prompts by a pipeline's names for them, each encoded once however many pictures it gets."""

    def __init__(self, pipeline, negative_prompt, guidance):
        self.pipeline, self.negative, self.guided = pipeline, negative_prompt or None, guidance > 1
        self.held = {}

    def take(self, prompts):
        import paddle

        if schedulers.is_unidiffuser(self.pipeline):  # whose pipeline takes words alone
            return {"prompt": list(prompts)}
        with paddle.no_grad():
            for prompt in set(prompts) - self.held.keys():
                self.held[prompt] = self.pipeline.encode_prompt(prompt, 1, self.guided, self.negative)
        positive, negative = zip(*(self.held[prompt] for prompt in prompts))
        taken = {"prompt_embeds": paddle.concat(positive)}
        return taken | ({"negative_prompt_embeds": paddle.concat(negative)} if self.guided else {})


def first_latents(pipeline, seed, purpose, numbers, height, width):
    """The noise that pictures of these numbers begin as, by the pipeline's names for it."""
    import paddle

    def drawn(purpose, *shape):
        values = randomness.normal(seed, purpose, [(number,) for number in numbers], shape)
        return paddle.to_tensor(values).astype(pipeline.unet.dtype)

    factor, channels = pipeline.vae_scale_factor, pipeline.unet.config.in_channels
    latents = drawn(purpose, channels, height // factor, width // factor)
    if not schedulers.is_unidiffuser(pipeline):
        return {"latents": latents}
    embedding = drawn(f"{purpose} embedding", 1, pipeline.image_encoder_projection_dim)
    return {"vae_latents": latents, "clip_latents": embedding}


def draw_for_run(pipeline, wanted, config, purpose):
    """Yield a picture for each (prompt, number) in `wanted`, with the size, seed and solver of a training run."""
    if config.drawing.prior_scheduler != "own":
        schedulers.set_scheduler(pipeline, config.drawing.prior_scheduler)
    check_steps(pipeline, config.drawing.prior_inference_steps, "--prior_inference_steps")
    height, width = config.pictures.size
    return draw(
        pipeline,
        wanted,
        seed=config.run.seed,
        purpose=purpose,
        height=height,
        width=width,
        steps=config.drawing.prior_inference_steps,
        guidance=GUIDANCE,
        batch_size=config.drawing.sample_batch_size,
    )
