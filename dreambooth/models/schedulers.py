"""The schedulers that pictures are drawn with."""

from dreambooth.system.errors import BadInput

# name -> (class of the library, settings). UniPC, which the library has too, fails on float64.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # latents are not bounded as pixels are
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}
# these draw new noise in every step, from Paddle's global generator
STOCHASTIC = ("EulerAncestralDiscreteScheduler", "DDPMScheduler")
UNIDIFFUSER = "UniDiffuserPipeline"
UNSCALED = ("ddim", "ddpm", "dpmsolver++", "pndm")  # the others want their input scaled, which its pipeline does not do


def set_scheduler(pipeline, name):
    """Give the pipeline another scheduler, with the noise schedule of its own."""
    import ppdiffusers

    if is_unidiffuser(pipeline) and name not in UNSCALED:
        raise BadInput(f"--scheduler {name}: a UniDiffuser can't draw with it; it can with {', '.join(UNSCALED)}")
    class_name, settings = SCHEDULERS[name]
    pipeline.scheduler = getattr(ppdiffusers, class_name).from_config(pipeline.scheduler.config, **settings)


def is_unidiffuser(pipeline):
    return type(pipeline).__name__ == UNIDIFFUSER
