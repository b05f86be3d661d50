"""The networks of the small Stable Diffusion, untrained, and the numbers that give them their shape."""

SIZE = 64
TOKENS = 32
WIDTH = 128  # of the text tower, and of the space that both towers of CLIP share


def vae():
    """Factor 4: 64 x 64 pixels to 16 x 16 x 4 latents."""
    from ppdiffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,  # a group of one channel would forget how bright the picture is
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def unet():
    """Attention only at 8 x 8 and 4 x 4: at 16 x 16 it doubled the time of a step."""
    from ppdiffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def clip(tokenizer):
    """Both towers of the small CLIP. Its text tower is the pipeline's text encoder."""
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


def scheduler():
    """As in Stable Diffusion 1.4."""
    from ppdiffusers import PNDMScheduler

    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )
