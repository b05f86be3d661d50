"""UniDiffuser: one transformer for pictures and texts, taught here as a model that draws what a text says.

A picture is two things to it, the latents of a VAE and an embedding of CLIP's; both are noised together, in one long
row, and what is learned is the part of the VAE (Bao et al. 2023, "One Transformer Fits All Distributions in Multi-Modal
Diffusion at Scale").
"""

import numpy as np
from PIL import Image
from ppdiffusers import DDPMScheduler

from dreambooth.models import loading, saving, tokenizers
from dreambooth.models.families import base
from dreambooth.system.errors import BadInput

# these see no gradient, and AdamW would decay them
NEVER_LEARNED = ("text_out", "clip_img_out", "transformer.pos_embed")
OWN_DATA = 1  # of the two kinds of data that version 1 tells apart, the one that its pipeline draws with
NETWORKS = ("unet", "text_encoder", "text_decoder", "image_encoder", "vae")


class UniDiffuser:
    """Two encodings of a picture, noised together and denoised by a transformer that sees the text's embedding."""

    pipeline_class = "UniDiffuserPipeline"

    def __init__(self, name, revision=None, tokenizer_name=None, train_text_encoder=False):
        self.name, self.revision = name, revision
        self.train_text_encoder, self.adapters = train_text_encoder, {}
        # the library's pipeline, whose helpers encode, put together and take apart; what is forgotten is None in it
        self.held = loading.load_pipeline(name, revision=revision)
        if tokenizer_name:
            own = self.held.clip_tokenizer
            self.held.clip_tokenizer = tokenizers.another_tokenizer(tokenizer_name, own, self.held.text_encoder)
        # its own solver can't put noise on a picture
        self.schedule = DDPMScheduler.from_config(self.held.scheduler.config)
        self.scheduler_config = loading.scheduler_settings(self.held.scheduler, name, revision)
        self.latent_scale = self.held.vae.config.scaling_factor
        self.side = self.held.unet.config.sample_size * self.held.vae_scale_factor

    def check(self, config):
        """Refuse what this model can't do. Its transformer knows each place of a picture of one size."""
        for name, size in zip(("height", "width"), config.pictures.size):
            if size != self.side:
                raise BadInput(f"--{name} {size}: this model knows pictures of {self.side} x {self.side} only")
        if config.memory.gradient_checkpointing:
            raise BadInput("--gradient_checkpointing: the library's UniDiffuser can't do it")

    # prompts

    def encode_prompts(self, prompts):
        """{"hidden": [prompts, tokens, width]}, as the pipeline encodes them to draw."""
        return {"hidden": self.held.text_decoder.encode(self.held._encode_prompt(list(prompts), 1, False))}

    @property
    def tokenizer(self):
        return self.held.clip_tokenizer

    def lost_text(self, prompt):
        return tokenizers.lost_text(self.tokenizer, prompt)

    # pictures

    def encode_pictures(self, pixels):
        """Pixels [n, 3, height, width] to the VAE's mean and deviation, and CLIP's embedding."""
        latents = self.held.vae.encode(pixels).latent_dist
        levels = ((pixels.transpose([0, 2, 3, 1]).numpy() + 1) * 127.5).round().astype(np.uint8)
        pictures = [Image.fromarray(each) for each in levels]
        embedding = self.held.encode_image_clip_latents(pictures, len(pictures), 1, pixels.dtype)
        return {"mean": latents.mean, "std": latents.std, "clip": embedding}

    def draw_latents(self, encoding, noise):
        latents = (encoding["mean"] + encoding["std"] * noise) * self.latent_scale
        return self.held._combine(latents, encoding["clip"].unsqueeze(1))

    def predict(self, noisy, t, conditioning):
        """The noise of both parts, for pictures that a text describes: the text has none."""
        last = self.schedule.config.num_train_timesteps
        return self.held._get_noise_pred(
            "text2img", noisy, t, conditioning["hidden"], None, None, last, OWN_DATA, 1.0, None, self.side, self.side
        )

    def picture_part(self, prediction):
        """The VAE's part of what was predicted."""
        return prediction[:, : -self.held.image_encoder_projection_dim]

    # what learns, and what is kept in memory

    def networks(self):
        """{folder: network} of all that is in memory."""
        named = {name: getattr(self.held, name) for name in NETWORKS}
        return {name: network for name, network in named.items() if network is not None}

    def learners(self):
        """{folder: network} of the networks that learn, be it by adapters."""
        names = ("unet", "text_encoder") if self.train_text_encoder else ("unet",)
        return {name: getattr(self.held, name) for name in names}

    def trained(self):
        """{folder: network or its adapters} of what learns."""
        return {**self.learners(), **self.adapters}

    def prepare_training(self, gradient_checkpointing):
        """Let what learns take gradients and nothing else."""
        for name, network in self.networks().items():
            network.eval()  # no dropout: it would be another one for another split of a batch
            base.freeze(network, self.trained().get(name) is not network)
        for name, layer in self.held.unet.named_sublayers():
            if name in NEVER_LEARNED:
                base.freeze(layer)

    def forget_encoders(self, vae=True):
        """Free what is not needed any more once pictures and prompts are encoded."""
        if vae:
            self.held.vae = self.held.image_encoder = None
        if not self.train_text_encoder:
            self.held.text_encoder = self.held.text_decoder = None
        base.empty_cache()

    def save(self, folder, save_format):
        """Write the whole pipeline."""
        pipeline = self.pipeline()
        pipeline.scheduler = type(self.held.scheduler).from_config(self.scheduler_config)
        saving.save(pipeline, folder, save_format)

    def pipeline(self):
        """The whole pipeline with what has been learned; what was freed is loaded from disk again."""
        for adapters in self.adapters.values():
            adapters.clear_dropout()
        held = {name: part for name, part in self.held.components.items() if part is not None}
        return loading.load_pipeline(self.name, revision=self.revision, **held)
