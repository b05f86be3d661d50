"""The families of models, known from model_index.json before anything heavy is loaded."""

# the pipeline's class, as model_index.json names it -> module and class here
FAMILIES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "UniDiffuserPipeline": ("unidiffuser", "UniDiffuser"),
}
SCHEDULERS = (
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
# the pipeline's class, as model_index.json names it -> what each of its parts may be; None: any
PARTS = {
    "StableDiffusionPipeline": {
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel", "BertModel", "RobertaSeriesModelWithTransformation"),
        "tokenizer": None,
        "unet": ("UNet2DConditionModel",),
        "scheduler": SCHEDULERS,
    },
    "UniDiffuserPipeline": {
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "image_encoder": ("CLIPVisionModelWithProjection",),
        "image_processor": None,
        "clip_tokenizer": None,
        "text_decoder": ("UniDiffuserTextDecoder",),
        "text_tokenizer": None,
        "unet": ("UniDiffuserModel",),
        "scheduler": SCHEDULERS,
    },
}
# which of the parts reads the prompts
TOKENIZER = {"StableDiffusionPipeline": "tokenizer", "UniDiffuserPipeline": "clip_tokenizer"}
WITHOUT_WEIGHTS = ("tokenizer", "clip_tokenizer", "text_tokenizer", "image_processor")
# a part's name in the library, and in diffusers since 0.25
NEWER_NAMES = {"image_processor": "clip_image_processor"}
