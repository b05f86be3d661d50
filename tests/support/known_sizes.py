"""The sizes of Stable Diffusion 1 and XL, without their files."""

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
STABLE_DIFFUSION_1 = Sizes(
    registry.FAMILIES["StableDiffusionPipeline"],
    {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    {"unet": UNET, "text_encoder": TEXT, "vae": {"block_out_channels": [128, 256, 512, 512]}},
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
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    },
)
