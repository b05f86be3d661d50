"""The parts of the small Stable Diffusion: its untrained networks, image processor and scheduler, and their shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppdiffusers.transformers import CLIPImageProcessor

    from dreambooth.system.types import Network, Pipeline, Scheduler, Tokenizer

SIZE = 64  # pixels a side
TOKENS = 32
WIDTH = 128  # of the text tower, and of the space that both towers of CLIP share
NOISE_LEVELS = 64  # of the small pictures that the upscaler sees: steps of their own schedule
UPSCALER_SCALE = 0.08333  # of an upscaler's latents: PPDiffusers sets it, whatever the VAE has
_UPSCALERS_BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def vae() -> Network:
    """Return an autoencoder of factor 4: pictures [n, 3, 64, 64] to latents [n, 4, 16, 16]."""
    from ppdiffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,  # groups of one channel would lose the picture's brightness
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def unet() -> Network:
    """Return a denoiser with attention only at 8 x 8 and 4 x 4: at 16 x 16 it doubles the time of a step."""
    return _denoiser((64, 96, 128), attending=2, in_channels=4)


def _denoiser(channels: tuple[int, ...], attending: int, **more: int) -> Network:
    """Return a denoiser of latents, which sees the prompt on its `attending` coarsest levels."""
    from ppdiffusers import UNet2DConditionModel

    plain = len(channels) - attending
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        out_channels=4,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
        up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        **more,
    )


def clip(tokenizer: Tokenizer) -> Network:
    """Return both towers of the small CLIP; its text tower is also the pipeline's text encoder."""
    from ppdiffusers.transformers import CLIPConfig, CLIPModel

    shape = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4)
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=WIDTH,
        **shape,
    )
    vision = dict(image_size=SIZE, patch_size=8, projection_dim=WIDTH, **shape)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def image_processor() -> CLIPImageProcessor:
    """Return CLIP's image processor for pictures of this world's size."""
    from ppdiffusers.transformers import CLIPImageProcessor

    side = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def scheduler() -> Scheduler:
    """Return the scheduler of Stable Diffusion 1.4."""
    from ppdiffusers import PNDMScheduler

    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def upscaler() -> Network:
    """Return a denoiser that also sees a small picture, as wide as the latents, and the level of its noise."""
    return _denoiser((48, 64, 96), attending=1, in_channels=7, num_class_embeds=NOISE_LEVELS)


def velocity_scheduler() -> Scheduler:
    """Return the scheduler of Stable Diffusion's upscaler."""
    from ppdiffusers import DDIMScheduler

    settings = dict(prediction_type="v_prediction", steps_offset=1, set_alpha_to_one=False, clip_sample=False)
    return DDIMScheduler(**_UPSCALERS_BETAS, **settings)


def noising_scheduler() -> Scheduler:
    """Return the scheduler that gives small pictures their noise."""
    from ppdiffusers import DDPMScheduler

    return DDPMScheduler(**_UPSCALERS_BETAS)


def upscaler_pipeline(vae: Network, text_encoder: Network, tokenizer: Tokenizer, unet: Network) -> Pipeline:
    """Return a pipeline that enlarges, of these parts; its VAE has latents of UPSCALER_SCALE."""
    from ppdiffusers import StableDiffusionUpscalePipeline

    return StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        low_res_scheduler=noising_scheduler(),
        scheduler=velocity_scheduler(),
        max_noise_level=NOISE_LEVELS - 1,
    )


def pipeline(vae: Network, text_encoder: Network, tokenizer: Tokenizer, unet: Network) -> Pipeline:
    """Return a Stable Diffusion pipeline of these parts, without a safety checker."""
    from ppdiffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
