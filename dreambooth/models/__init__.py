"""Which family of models a name belongs to, known from its model_index.json before anything heavy is loaded.

A family is one class with the verbs that the story needs: encode_pictures, encode_prompts, draw_latents, predict,
picture_part, trained, forget_encoders, pipeline. The loss and the loop never ask which family they hold.
"""

import hashlib
import importlib
import json
import re
from contextlib import contextmanager
from pathlib import Path

from dreambooth.config import BadInput

# the pipeline's class, as model_index.json names it -> module and class here
FAMILIES = {"StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion")}

# what the parts of a pipeline may be; None: any
TEXT_ENCODERS = ("CLIPTextModel", "BertModel", "RobertaSeriesModelWithTransformation")
SCHEDULERS = (
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
PARTS = {
    "vae": ("AutoencoderKL",),
    "text_encoder": TEXT_ENCODERS,
    "tokenizer": None,
    "unet": ("UNet2DConditionModel",),
    "scheduler": SCHEDULERS,
}
UNUSED_WEIGHTS = ("pooler.", "bert.pooler.", "embeddings.position_ids", "text_model.embeddings.position_ids")
FLAG = "--pretrained_model_name_or_path"
WEIGHTS = ("*.pdparams", "*.safetensors", "*.bin")


def looks_like_a_path(name):
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def check_folder(name, flag=FLAG):
    """Refuse a local folder that is no pipeline of a family we know, and say what is missing in it. A name of the hub
    passes: it is checked when it has been fetched."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or looks_like_a_path(name):
            raise BadInput(f"{flag} {name}: there is no such folder")
        return
    index = folder / "model_index.json"
    if not index.is_file():
        inside = ", ".join(sorted(each.name for each in folder.iterdir())[:5]) or "nothing"
        raise BadInput(f"{flag} {name}: no pipeline, it has no model_index.json (there is {inside})")
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        check_index(name, parts, flag)
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{flag} {name}: its model_index.json can't be read ({error})") from None
    for part in PARTS:
        check_part(name, folder / part, flag)


def check_part(name, folder, flag):
    part = folder.name
    if not folder.is_dir():
        raise BadInput(f"{flag} {name}: it has no folder {part}/")
    if part == "scheduler":
        needed = ["scheduler_config.json"]
    elif part == "tokenizer":
        needed = []
        if not any(folder.iterdir()):
            raise BadInput(f"{flag} {name}: its folder {part}/ is empty")
    else:
        needed = ["config.json"]
        if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
            raise BadInput(f"{flag} {name}: its folder {part}/ has no weights (model_state.pdparams or *.safetensors)")
    for file in needed:
        if not (folder / file).is_file():
            raise BadInput(f"{flag} {name}: {part}/{file} is missing")


def check_index(name, index, flag=FLAG):
    """Refuse a pipeline, or a class of one of its parts, that is not supported."""
    pipeline = index.get("_class_name")
    if pipeline not in FAMILIES:
        raise BadInput(f"{flag} {name}: it is a {pipeline}; supported: {', '.join(FAMILIES)}")
    for part, classes in PARTS.items():
        _, class_name = index.get(part) or (None, None)
        if class_name is None:
            raise BadInput(f"{flag} {name}: its model_index.json names no {part}")
        if classes and class_name not in classes:
            raise BadInput(f"{flag} {name}: its {part} is a {class_name}; supported: {', '.join(classes)}")
    return pipeline


def fingerprint(name):
    """What tells a local model from another one, whatever its folder is called: its settings, and the names and sizes
    of its files. A name on the hub stands for itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((folder / part).iterdir()):
            content = path.read_bytes() if path.suffix == ".json" else b""
            digest.update(f"{part}/{path.name} {path.stat().st_size} ".encode() + content)
    return f"files {digest.hexdigest()[:12]}"


def read_index(name, flag=FLAG, revision=None):
    """model_index.json of a folder or of a name on the hub."""
    from ppdiffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(name, revision=revision)
    except Exception as error:
        raise BadInput(unavailable(name, error, flag)) from error


def unavailable(name, error, flag=FLAG):
    reason = " ".join(str(error).split())
    if Path(name).is_dir():
        return f"{flag} {name}: it can't be loaded ({reason})"
    return (
        f"{flag} {name}: there is no such folder here, and it could not be fetched from the hub; check the name and the"
        " network, or give a local folder (--verbose shows what the hub said)"
    )


def load_model(name, **options):
    """The model of a name or folder, as an object of its family."""
    pipeline = check_index(name, read_index(name, revision=options.get("revision")))
    module, class_name = FAMILIES[pipeline]
    family = getattr(importlib.import_module(f"dreambooth.models.{module}"), class_name)
    return family(name, **options)


def load_pipeline(name, flag=FLAG, revision=None, **parts):
    """The pipeline of a name or folder in float32, but for the parts that are given; without the safety checker."""
    import ppdiffusers

    pipeline_class = getattr(ppdiffusers, check_index(name, read_index(name, flag, revision), flag))
    try:
        with all_weights_found():
            pipeline = pipeline_class.from_pretrained(
                name,
                revision=revision,
                safety_checker=None,
                requires_safety_checker=False,
                paddle_dtype="float32",
                **parts,
            )
    except Exception as error:
        raise BadInput(unavailable(name, error, flag)) from error
    limit_tokens(pipeline.tokenizer, pipeline.text_encoder)
    keep_padding(pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def all_weights_found():
    """Fail where the library would only warn that a network keeps random weights, since its files lack them."""
    from paddlenlp.transformers import model_utils as paddlenlp
    from ppdiffusers.models import modeling_utils as ppdiffusers

    said = []

    def listening(warning):
        return lambda message, *more: (said.append(str(message)), warning(message, *more))

    before = [(each.logger, each.logger.warning) for each in (paddlenlp, ppdiffusers)]
    for logger, warning in before:
        logger.warning = listening(warning)
    try:
        yield
    finally:
        for logger, warning in before:
            logger.warning = warning
    for message in said:
        if "newly initialized" not in message:
            continue
        names = [name for name in re.findall(r"'([\w.]+)'", message) if not name.startswith(UNUSED_WEIGHTS)]
        if names or "did not match" in message:
            part = re.search(r"Some weights of (\w+)", message)[1]
            raise ValueError(
                f"the files of its {part} lack {len(names)} weights, {names[0] if names else ''} among them"
            )


def keep_padding(text_encoder):
    """Let the embedding of the padding token count, as it does where these models were trained. Paddle's layer answers
    with zeros for it; without a padding token in its settings, the saved text encoder loads right as well."""
    from paddle import nn

    for layer in text_encoder.sublayers():
        if isinstance(layer, nn.Embedding) and layer._padding_idx is not None:
            layer._padding_idx = text_encoder.config.pad_token_id = None


def limit_tokens(tokenizer, text_encoder):
    """Let a tokenizer make at most as many tokens as the text encoder has positions; one that knows no maximum says
    1e30, and fails. The limit is saved with it."""
    most = text_encoder.config.max_position_embeddings
    if tokenizer.model_max_length > most:
        tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = most
