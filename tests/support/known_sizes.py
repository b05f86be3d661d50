"""The sizes of Stable Diffusion 1, without its 4 GB."""

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
