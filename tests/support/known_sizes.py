"""The sizes of the real models, without their files."""

from dreambooth.models import registry
from dreambooth.run.memory.sizes import Sizes

UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": 8,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
TEXT = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "max_position_embeddings": 77}
VAE = {"block_out_channels": [128, 256, 512, 512]}
STABLE_DIFFUSION_1 = Sizes(
    registry.FAMILIES["StableDiffusionPipeline"],
    {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    {"unet": UNET, "text_encoder": TEXT, "vae": VAE},
)
# a BERT of Chinese: 21128 words, 512 places, twelve layers
TAIYI = Sizes(
    registry.FAMILIES["StableDiffusionPipeline"],
    {"unet": 859_520_964, "text_encoder": 102_267_648, "vae": 83_653_863},
    {"unet": UNET, "text_encoder": {**TEXT, "max_position_embeddings": 512}, "vae": VAE},
)
UNET_OF_XL = {
    "block_out_channels": [320, 640, 1280],
    "attention_head_dim": [5, 10, 20],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SECOND_TEXT = {"hidden_size": 1280, "num_attention_heads": 20, "num_hidden_layers": 32, "max_position_embeddings": 77}
STABLE_DIFFUSION_XL = Sizes(
    registry.FAMILIES["StableDiffusionXLPipeline"],
    {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863},
    {
        "unet": UNET_OF_XL,
        "text_encoder": TEXT,
        "text_encoder_2": SECOND_TEXT,
        "vae": VAE,
    },
)
STABLE_DIFFUSION_3 = Sizes(
    registry.FAMILIES["StableDiffusion3Pipeline"].without(("text_encoder_3", "tokenizer_3")),
    {"transformer": 2_028_328_000, "text_encoder": 123_650_304, "text_encoder_2": 694_659_840, "vae": 83_819_683},
    {
        "transformer": {
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "num_layers": 24,
            "patch_size": 2,
            "in_channels": 16,
            "pooled_projection_dim": 2048,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
        },
        "text_encoder": TEXT,
        "text_encoder_2": SECOND_TEXT,
        "vae": VAE,
    },
)
TEXT_OF_2 = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 23, "max_position_embeddings": 77}
_OF_2 = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
INPAINTING_2 = Sizes(
    registry.FAMILIES["StableDiffusionInpaintPipeline"],
    {"unet": 865_925_124, "text_encoder": 340_387_840, "vae": 83_653_863},
    {"unet": {**UNET, **_OF_2, "in_channels": 9}, "text_encoder": TEXT_OF_2, "vae": VAE},
)
UPSCALER = Sizes(
    registry.FAMILIES["StableDiffusionUpscalePipeline"],
    {"unet": 473_398_276, "text_encoder": 340_387_840, "vae": 55_315_000},
    {
        "unet": {
            **UNET,
            **_OF_2,
            "block_out_channels": [256, 512, 512, 1024],
            "attention_head_dim": 8,
            "in_channels": 7,
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
            "num_class_embeds": 1000,
            "only_cross_attention": [True, True, True, False],
        },
        "text_encoder": TEXT_OF_2,
        "vae": {"block_out_channels": [128, 256, 512]},
    },
)
UNIDIFFUSER = Sizes(
    registry.FAMILIES["UniDiffuserPipeline"],
    {
        "unet": 952_535_632,
        "text_encoder": 123_060_480,
        "text_decoder": 124_539_712,
        "image_encoder": 87_849_216,
        "vae": 83_653_863,
    },
    {
        "unet": {
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "num_layers": 30,
            "patch_size": 2,
            "num_text_tokens": 77,
            "use_data_type_embedding": True,
        },
        "text_encoder": TEXT,
        "vae": VAE,
    },
)
