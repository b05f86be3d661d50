"""Stable Diffusion 1 and 2 and what was made from them (waifu, trinart, Taiyi …): they differ by tokenizer, text
encoder and scheduler, and all of that is read from the model's own files."""

from ppdiffusers import DDPMScheduler

from dreambooth.models import loading, saving, tokenizers
from dreambooth.models.families import base
from dreambooth.system.errors import BadInput


class StableDiffusion:
    """A text encoder conditions a UNet that denoises the latents of a VAE."""

    pipeline_class = "StableDiffusionPipeline"

    def __init__(self, name, revision=None, tokenizer_name=None, train_text_encoder=False):
        self.name, self.revision = name, revision
        self.train_text_encoder, self.adapters = train_text_encoder, {}
        pipeline = loading.load_pipeline(name, revision=revision)
        self.vae, self.text_encoder, self.unet = pipeline.vae, pipeline.text_encoder, pipeline.unet
        self.scheduler = pipeline.scheduler
        # what is saved in the end is the model's own, as it was
        self.scheduler_config = loading.scheduler_settings(self.scheduler, name, revision)
        self.tokenizer = pipeline.tokenizer
        if tokenizer_name:
            self.tokenizer = tokenizers.another_tokenizer(tokenizer_name, pipeline.tokenizer, self.text_encoder)
        self.schedule = DDPMScheduler.from_config(self.scheduler.config)
        if self.schedule.config.prediction_type not in ("epsilon", "v_prediction"):
            raise BadInput(f"{name}: its scheduler predicts {self.schedule.config.prediction_type}; not supported")
        self.factor = pipeline.vae_scale_factor
        self.latent_scale = self.vae.config.scaling_factor

    def check(self, config):
        """Refuse what this model can't do."""
        for name, size in zip(("height", "width"), config.pictures.size):
            if size % self.factor:
                raise BadInput(f"--{name} {size}: must be a multiple of {self.factor}, the model's factor")

    # prompts

    def tokens(self, prompts):
        return self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pd",
        )

    def encode_prompts(self, prompts):
        """{"hidden": [prompts, tokens, width]}; an attention mask goes in only where the text encoder's config asks for
        one."""
        tokens = self.tokens(prompts)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        return {"hidden": self.text_encoder(tokens.input_ids, attention_mask=mask)[0]}

    def lost_text(self, prompt):
        return tokenizers.lost_text(self.tokenizer, prompt)

    # pictures

    def encode_pictures(self, pixels):
        """Pixels [n, 3, height, width] to the VAE's mean and deviation, from which each step draws anew."""
        latents = self.vae.encode(pixels).latent_dist
        return {"mean": latents.mean, "std": latents.std}

    def draw_latents(self, encoding, noise):
        return (encoding["mean"] + encoding["std"] * noise) * self.latent_scale

    def predict(self, noisy, t, conditioning):
        return self.unet(noisy, t, conditioning["hidden"]).sample

    @staticmethod
    def picture_part(prediction):
        """The part of a prediction that the loss is taken of: here, all of it."""
        return prediction

    # what learns, and what is kept in memory

    def networks(self):
        """{folder: network} of all that is in memory."""
        named = {"vae": self.vae, "text_encoder": self.text_encoder, "unet": self.unet}
        return {name: network for name, network in named.items() if network is not None}

    def learners(self):
        """{folder: network} of the networks that learn, be it by adapters."""
        networks = {"unet": self.unet}
        if self.train_text_encoder:
            networks["text_encoder"] = self.text_encoder
        return networks

    def trained(self):
        """{folder: network or its adapters} of what learns."""
        return {**self.learners(), **self.adapters}

    def prepare_training(self, gradient_checkpointing):
        """Let what learns take gradients and nothing else; no dropout, whose randomness would depend on the split of
        a batch. Gradient checkpointing asks for train mode."""
        for name, network in self.networks().items():
            network.eval()
            base.freeze(network, self.trained().get(name) is not network)
        # the pooler sees no gradient: Stable Diffusion uses the hidden states alone
        if self.train_text_encoder:
            base.freeze(getattr(self.text_encoder, "pooler", None))
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            if self.train_text_encoder:
                self.text_encoder.gradient_checkpointing_enable()
            for network in self.learners().values():
                network.train()
                base.without_dropout(network)

    def forget_encoders(self, vae=True):
        """Free what is not needed any more once pictures and prompts are encoded."""
        if vae:
            self.vae = None
        if not self.train_text_encoder:
            self.text_encoder = None
        base.empty_cache()

    def save(self, folder, save_format):
        """Write the whole pipeline."""
        pipeline = self.pipeline()
        pipeline.scheduler = type(self.scheduler).from_config(self.scheduler_config)
        saving.save(pipeline, folder, save_format)

    def pipeline(self):
        """The whole pipeline with what has been learned; what was freed is loaded from disk again."""
        for adapters in self.adapters.values():
            adapters.clear_dropout()
        parts = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
        held = {name: getattr(self, name) for name in parts if getattr(self, name) is not None}
        modes = [(network, network.training) for network in self.learners().values()]
        pipeline = loading.load_pipeline(self.name, revision=self.revision, **held)
        for network, training in modes:  # loading puts everything into eval mode
            network.train() if training else network.eval()
        return pipeline
