"""Which family of models a name belongs to, known from its model_index.json before anything heavy is loaded.

A family is one class with the verbs that the story needs: check, encode_pictures, encode_prompts, draw_latents,
predict, picture_part, learners, trained, prepare_training, forget_encoders, pipeline, save. The loss and the loop
never ask which family they hold.
"""

import importlib
import re
from contextlib import contextmanager

from dreambooth import lora_files, tensors
from dreambooth.config import BadInput
from dreambooth.models import fetch, folders, layouts

# the pipeline's class, as model_index.json names it -> module and class here
FAMILIES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "UniDiffuserPipeline": ("unidiffuser", "UniDiffuser"),
}
UNUSED_WEIGHTS = (
    "pooler.",
    "bert.pooler.",
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)


def load_model(name, **options):
    """The model of a name or folder, as an object of its family."""
    index, _ = look_up(name, options.get("revision"))
    module, class_name = FAMILIES[index["_class_name"]]
    family = getattr(importlib.import_module(f"dreambooth.models.{module}"), class_name)
    return family(name, **options)


def look_up(name, revision=None, flag=folders.FLAG):
    """(a model's model_index.json, the folder where the model is)."""
    place = fetch.find(name, revision, flag)
    folders.check(place, flag)
    return folders.read_index(place), place


def cant_be_loaded(name, error, flag):
    return f"{flag} {name}: it can't be loaded ({' '.join(str(error).split())})"


def load_pipeline(name, flag=folders.FLAG, revision=None, lora_scale=1.0, **parts):
    """The pipeline of a name or folder in float32, but for the parts that are given; without the safety checker. The
    folder of a LoRA stands for its base model with the LoRA in it."""
    import ppdiffusers

    from dreambooth.models import text

    if base := lora_files.base_of(name):
        pipeline = load_pipeline(base["model"], flag, base["revision"])
        if base["tokenizer"]:
            part = folders.TOKENIZER[type(pipeline).__name__]
            own = getattr(pipeline, part)
            setattr(pipeline, part, text.another_tokenizer(base["tokenizer"], own, pipeline.text_encoder))
        put_in_lora(pipeline, name, lora_scale, flag)
        return pipeline
    index, place = look_up(name, revision, flag)
    kind = index["_class_name"]
    if kind == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        with all_weights_found(), read_lean(), layouts.readable(place, flag) as (readable, from_torch):
            # without low_cpu_mem_usage the library first fills each network with random numbers, which takes longer
            # than all the rest, and holds it two times
            pipeline = getattr(ppdiffusers, kind).from_pretrained(
                str(readable), paddle_dtype="float32", from_diffusers=from_torch, low_cpu_mem_usage=True, **parts
            )
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(cant_be_loaded(name, error, flag)) from error
    text.limit_tokens(getattr(pipeline, folders.TOKENIZER[kind]), pipeline.text_encoder)
    text.keep_padding(pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def put_in_lora(pipeline, place, scale, flag):
    """Merge a LoRA, which is a file or in a folder, into a pipeline's own weights."""
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    lora_files.merge(networks, lora_files.read(lora_files.find(place, flag), flag), scale, f"{flag} {place}")


def check(name, flag):
    """Refuse, before the libraries are loaded, what is no pipeline and no LoRA whose base is here."""
    base = lora_files.base_of(name)
    if base is None:
        return folders.check(name, flag)
    try:
        folders.check(base["model"], flag)
    except BadInput as error:
        raise BadInput(f"{flag} {name}: it is a LoRA, and its base model can't be used ({error})") from None


def load_tokenizer(name, flag=folders.FLAG, revision=None):
    """The tokenizer of a model's prompts, alone."""
    from ppdiffusers import transformers

    index, place = look_up(name, revision, flag)
    part = folders.TOKENIZER[index["_class_name"]]
    kind = getattr(transformers, index[part][1].removesuffix("Fast"))
    try:
        with layouts.readable(place, flag) as (readable, _):
            return kind.from_pretrained(str(readable), subfolder=part)
    except Exception as error:
        raise BadInput(cant_be_loaded(name, error, flag)) from error


def scheduler_settings(scheduler, name, revision=None):
    """A model's own settings of its scheduler: the library amends those that it finds outdated."""
    place = fetch.find(name, revision)
    return type(scheduler).load_config(place, subfolder="scheduler")


@contextmanager
def read_lean():
    """Within it, PPDiffusers reads safetensors by a reader whose arrays leave memory when they have been used."""
    from ppdiffusers.models import modeling_utils

    whole = modeling_utils.safe_open

    def lean(path, framework):
        try:
            return tensors.Reader(path)
        except ValueError:  # a kind of numbers that NumPy does not know, or no such file: the library says it better
            return whole(path, framework=framework)

    modeling_utils.safe_open = lean
    try:
        yield
    finally:
        modeling_utils.safe_open = whole


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
