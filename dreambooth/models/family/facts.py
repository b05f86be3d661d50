"""The facts of each family: what the library calls its pipeline and parts, and which part does what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dreambooth.models import schedulers

CLIP_TEXT_ENCODER = "CLIPTextModel"
_CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_BERT_TOKENIZERS = ("BertTokenizer", "BertTokenizerFast", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
_GPT_TOKENIZERS = ("GPTTokenizer", "GPT2Tokenizer", "GPT2TokenizerFast")
_T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
_IMAGE_PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor")
# the classes of small files, which have no weights
SMALL = {*_CLIP_TOKENIZERS, *_BERT_TOKENIZERS, *_GPT_TOKENIZERS, *_T5_TOKENIZERS, *_IMAGE_PROCESSORS}


@dataclass(frozen=True)
class FamilyFacts:
    """The facts of a family. A part is a component of the library's pipeline, and its folder."""

    pipeline: str  # the class that model_index.json names
    family: str  # "module:Class" in models/families
    # part -> the classes that it may have. A model's fingerprint depends on the order.
    parts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]  # a part that may train -> its name in texts for people
    denoiser: str = "unet"  # always trains
    text_encoders: tuple[str, ...] = ("text_encoder",)  # train on request
    # the networks that prompts and pictures go through before the denoiser
    prompt_encoders: tuple[str, ...] = ("text_encoder",)
    picture_encoders: tuple[str, ...] = ("vae",)
    decoder: str = "vae"  # makes pictures of latents; "": its denoiser works on pixels
    tokenizers: tuple[str, ...] = ("tokenizer",)  # read the prompts
    optional_parts: tuple[str, ...] = ()  # small files that are kept where a model has them
    lackable: tuple[str, ...] = ()  # parts that a model may lack
    t5_tokens: int = 0  # of a prompt, that T5 reads beside CLIPs
    # part -> the settings in its config.json that the library takes and does not heed
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused_models: str = ""  # that have them, in words, and why
    # a width of the denoiser -> those whose sum it is: "part", the output of a text encoder, or "part.setting"
    widths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    least_widths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # which are at least such a sum
    omitted: Mapping[str, Any] = field(default_factory=dict)  # the pipeline's arguments for parts that are left out
    index_settings: tuple[str, ...] = ()  # what model_index.json says beside the parts
    # part -> its layers that see no gradient, which an optimizer's decay would change
    untrained_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    newer_names: Mapping[str, str] = field(default_factory=dict)  # a part's name in the library -> in newer diffusers
    lora_prefixes: Mapping[str, str] = field(default_factory=dict)  # part -> its prefix in the LoRA files of web UIs
    # part -> a pattern for the beginning of each layer that web UIs load, with _ or . between the words
    web_ui_layers: Mapping[str, str] = field(default_factory=dict)
    web_ui_networks: str = ""  # those networks in words
    # what else a layer's name may begin with in a LoRA file -> the part
    other_lora_names: Mapping[str, str] = field(default_factory=dict)
    lora_in_diffusers: bool = True  # diffusers loads its LoRA
    lora_in_library: bool = False  # the libraries' own load_lora_weights reads its LoRA
    kinds: Mapping[str, str] = field(default_factory=dict)  # part that may train -> how its memory is counted
    single_file: bool = False  # can be exported as one file
    has_places: bool = True  # its latents are pictures, so that masks can weight their places
    # the pictures that its pipeline does not draw without, by its argument: a name for examples
    pictures: Mapping[str, str] = field(default_factory=dict)
    enlarges: bool = False  # its denoiser sees a small picture
    noise_level: int = 0  # of that picture, a step of its own noise schedule
    added: str | None = None  # what its denoiser sees beside pictures and prompts, as the library calls it
    paints: bool = False  # its denoiser sees a region to paint, and the rest of the picture
    control: str = ""  # the class of the ControlNets that it takes, if any
    flows: bool = False  # its scheduler is that of a flow, and can't be another one
    stochastic: bool = False  # its pipeline draws new noise in every step, whatever the scheduler
    # its loss in words, over the versions: that of a checkpoint that names none first, that of today last
    losses: tuple[str, ...] = ()

    @property
    def learners(self) -> tuple[str, ...]:
        """The parts that may train."""
        return self.denoiser, *self.text_encoders

    def without(self, parts: Iterable[str]) -> FamilyFacts:
        """Return the facts of a model that lacks some parts."""
        absent = frozenset(parts)
        if not absent:
            return self
        return replace(
            self,
            parts={part: classes for part, classes in self.parts.items() if part not in absent},
            prompt_encoders=tuple(part for part in self.prompt_encoders if part not in absent),
            tokenizers=tuple(part for part in self.tokenizers if part not in absent),
            omitted={**self.omitted, **dict.fromkeys(sorted(absent))},
        )

    @property
    def reads_by_t5(self) -> bool:
        """Whether T5 reads the prompts, and nothing else does."""
        return not self.text_encoders

    @property
    def without_weights(self) -> tuple[str, ...]:
        """The parts that consist of small files."""
        return tuple(part for part, classes in self.parts.items() if SMALL.issuperset(classes))

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        others = {*self.schedulers, *self.without_weights}
        return tuple(part for part in self.parts if part not in others)

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The parts that are schedulers."""
        known = {*schedulers.CLASSES, schedulers.FLOW}
        return tuple(part for part, classes in self.parts.items() if known.issuperset(classes))


_SIZES_AND_CROP = ("unet.addition_time_embed_dim",) * 6  # each two numbers
# the layers that the UNets of DeepFloyd IF alone have; no layer's name begins so
_NOT_OF_PIXELS = r"(?!.*add_[kv]_proj)(?!add_embedding[._]pool)"
STABLE_DIFFUSION = FamilyFacts(
    pipeline="StableDiffusionPipeline",
    family="stable_diffusion:StableDiffusion",
    parts={
        "vae": ("AutoencoderKL",),
        "text_encoder": (CLIP_TEXT_ENCODER, "BertModel", "RobertaSeriesModelWithTransformation"),
        "tokenizer": (*_CLIP_TOKENIZERS, *_BERT_TOKENIZERS),
        "unet": ("UNet2DConditionModel",),
        "scheduler": schedulers.CLASSES,
    },
    labels={"unet": "UNet", "text_encoder": "text encoder"},
    optional_parts=("feature_extractor",),
    widths={"cross_attention_dim": ("text_encoder",)},
    omitted={"safety_checker": None, "requires_safety_checker": False},
    untrained_layers={"text_encoder": ("pooler",)},  # its UNet sees the hidden states alone
    lora_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    kinds={"unet": "convolutional", "text_encoder": "encoder"},
    web_ui_layers={
        "unet": rf"{_NOT_OF_PIXELS}((down_blocks|mid_block|up_blocks|time_embedding)[._]|conv_(in|out)$)",
        "text_encoder": r"text_model[._]",
    },
    web_ui_networks="Stable Diffusion's UNet and CLIP",
    other_lora_names={"": "unet"},  # in diffusers' first format all layers are of the UNet
    lora_in_library=True,
    single_file=True,
    control="ControlNetModel",
)
UNIDIFFUSER = FamilyFacts(
    pipeline="UniDiffuserPipeline",
    family="unidiffuser:UniDiffuser",
    parts={
        "vae": ("AutoencoderKL",),
        "text_encoder": (CLIP_TEXT_ENCODER,),
        "image_encoder": ("CLIPVisionModelWithProjection",),
        "image_processor": _IMAGE_PROCESSORS,
        "clip_tokenizer": _CLIP_TOKENIZERS,
        "text_decoder": ("UniDiffuserTextDecoder",),
        "text_tokenizer": _GPT_TOKENIZERS,
        "unet": ("UniDiffuserModel",),
        "scheduler": schedulers.CLASSES,
    },
    labels={"unet": "UNet", "text_encoder": "text encoder"},
    prompt_encoders=("text_encoder", "text_decoder"),
    picture_encoders=("vae", "image_encoder"),
    tokenizers=("clip_tokenizer",),
    widths={
        "text_dim": ("text_decoder.prefix_hidden_dim",),
        "clip_img_dim": ("image_encoder.projection_dim",),
        "num_text_tokens": ("text_encoder.max_position_embeddings",),
    },
    untrained_layers={"unet": ("text_out", "transformer.pos_embed")},
    lora_in_diffusers=False,
    kinds={"unet": "joint", "text_encoder": "encoder"},
    newer_names={"image_processor": "clip_image_processor"},  # since diffusers 0.25
    has_places=False,
    stochastic=True,  # without a text, its guidance is a text of new noise
    losses=("of the latents", "of the latents and the embedding"),
)
STABLE_DIFFUSION_XL = FamilyFacts(
    pipeline="StableDiffusionXLPipeline",
    family="sdxl:StableDiffusionXL",
    parts={
        "vae": ("AutoencoderKL",),
        "text_encoder": (CLIP_TEXT_ENCODER,),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": _CLIP_TOKENIZERS,
        "tokenizer_2": _CLIP_TOKENIZERS,
        "unet": ("UNet2DConditionModel",),
        "scheduler": schedulers.CLASSES,
    },
    labels={"unet": "UNet", "text_encoder": "first text encoder", "text_encoder_2": "second text encoder"},
    text_encoders=("text_encoder", "text_encoder_2"),
    prompt_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    widths={
        "cross_attention_dim": ("text_encoder", "text_encoder_2"),
        "projection_class_embeddings_input_dim": ("text_encoder_2.projection_dim", *_SIZES_AND_CROP),
    },
    omitted={"add_watermarker": False},
    added="text_time",
    refused={"vae": ("latents_mean", "latents_std")},
    refused_models="Playground 2.5, whose latents have another scale",
    index_settings=("force_zeros_for_empty_prompt",),
    lora_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    kinds={"unet": "convolutional", "text_encoder": "encoder", "text_encoder_2": "encoder"},
    web_ui_layers={
        "unet": rf"{_NOT_OF_PIXELS}((down_blocks|mid_block|up_blocks|time_embedding|add_embedding)[._]|conv_(in|out)$)",
        "text_encoder": r"text_model[._]",
        "text_encoder_2": r"text_model[._]",
    },
    web_ui_networks="Stable Diffusion XL's UNet and CLIPs",
    single_file=True,
    control="ControlNetModel",
)
STABLE_DIFFUSION_3 = FamilyFacts(
    pipeline="StableDiffusion3Pipeline",
    family="sd3:StableDiffusion3",
    parts={
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": _CLIP_TOKENIZERS,
        "tokenizer_2": _CLIP_TOKENIZERS,
        "tokenizer_3": _T5_TOKENIZERS,
        "transformer": ("SD3Transformer2DModel",),
        "scheduler": (schedulers.FLOW,),
    },
    labels={
        "transformer": "transformer",
        "text_encoder": "first text encoder",
        "text_encoder_2": "second text encoder",
    },
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    prompt_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    tokenizers=("tokenizer", "tokenizer_2"),
    lackable=("text_encoder_3", "tokenizer_3"),
    t5_tokens=256,  # as in diffusers
    least_widths={"joint_attention_dim": ("text_encoder", "text_encoder_2")},  # zeros fill the rest
    widths={
        "joint_attention_dim": ("text_encoder_3",),
        "pooled_projection_dim": ("text_encoder.projection_dim", "text_encoder_2.projection_dim"),
    },
    refused={"transformer": ("qk_norm", "dual_attention_layers")},
    refused_models="Stable Diffusion 3.5, which PPDiffusers draws wrongly",
    kinds={"transformer": "multimodal", "text_encoder": "encoder", "text_encoder_2": "encoder"},
    single_file=True,
    flows=True,
)
INPAINTING = replace(
    STABLE_DIFFUSION,
    pipeline="StableDiffusionInpaintPipeline",
    family="inpainting:Inpainting",
    pictures={"image": "room.png", "mask_image": "mask.png"},
    paints=True,
)
UPSCALER = replace(
    STABLE_DIFFUSION,
    pipeline="StableDiffusionUpscalePipeline",
    family="upscaler:Upscaler",
    parts={**STABLE_DIFFUSION.parts, "text_encoder": (CLIP_TEXT_ENCODER,), "low_res_scheduler": ("DDPMScheduler",)},
    omitted={"safety_checker": None, "watermarker": None},
    index_settings=("max_noise_level",),
    lora_prefixes={},
    web_ui_layers={},
    web_ui_networks="",
    single_file=False,
    control="",
    pictures={"image": "small.png"},
    enlarges=True,
    noise_level=20,  # with which the library's pipeline draws
)
DEEPFLOYD = FamilyFacts(
    pipeline="IFPipeline",
    family="deepfloyd:DeepFloyd",
    parts={
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": _T5_TOKENIZERS,
        "unet": ("UNet2DConditionModel",),
        "scheduler": schedulers.CLASSES,
    },
    labels={"unet": "UNet"},
    text_encoders=(),
    picture_encoders=(),
    decoder="",
    optional_parts=("feature_extractor",),
    widths={"encoder_hid_dim": ("text_encoder",)},
    omitted={"safety_checker": None, "watermarker": None, "requires_safety_checker": False},
    kinds={"unet": "pixels"},
    added="text",
)
DEEPFLOYD_UPSCALER = replace(
    DEEPFLOYD,
    pipeline="IFSuperResolutionPipeline",
    family="deepfloyd:DeepFloydUpscaler",
    parts={**DEEPFLOYD.parts, "image_noising_scheduler": ("DDPMScheduler",)},
    pictures={"image": "small.png"},
    enlarges=True,
    noise_level=20,  # little, as DreamBooth asks for; the library's pipeline has 250
)
