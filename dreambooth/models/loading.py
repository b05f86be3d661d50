"""A model's parts, loaded from a name or a folder."""

import importlib
from pathlib import Path

import numpy as np

from dreambooth.files import lora
from dreambooth.models import hub, layouts, pipeline_folder, registry
from dreambooth.system import patches
from dreambooth.system.errors import BadInput


def load_model(name, **options):
    """The model of a name or folder, as an object of its family."""
    index, _ = look_up(name, options.get("revision"))
    module, class_name = registry.FAMILIES[index["_class_name"]].family.split(":")
    family = getattr(importlib.import_module(f"dreambooth.models.families.{module}"), class_name)
    return family(name, **options)


def look_up(name, revision=None, flag=pipeline_folder.FLAG):
    """(a model's model_index.json, the folder where the model is)."""
    place = hub.find_model(name, revision, flag)
    pipeline_folder.check(place, flag)
    return pipeline_folder.read_index(place), place


def cant_be_loaded(name, error, flag):
    return f"{flag} {name}: it can't be loaded ({' '.join(str(error).split())})"


def load_pipeline(name, flag=pipeline_folder.FLAG, revision=None, lora_scale=1.0, **parts):
    """The pipeline of a name or folder in float32, but for the parts that are given; without the safety checker. The
    folder of a LoRA stands for its base model with the LoRA in it."""
    import ppdiffusers

    from dreambooth.models import tokenizers

    if base := lora.find_base(name):
        pipeline = load_pipeline(base["model"], flag, base["revision"])
        if base["tokenizer"]:
            part = registry.FAMILIES[type(pipeline).__name__].tokenizers[0]
            own = getattr(pipeline, part)
            setattr(pipeline, part, tokenizers.another_tokenizer(base["tokenizer"], own, pipeline.text_encoder))
        put_in_lora(pipeline, name, lora_scale, flag)
        return pipeline
    index, place = look_up(name, revision, flag)
    facts = registry.FAMILIES[index["_class_name"]]
    parts |= facts.omitted
    try:
        with (
            patches.all_weights_found(),
            layouts.readable(place, flag) as (readable, from_torch),
        ):
            # without low_cpu_mem_usage the library first fills each network with random numbers, which takes longer
            # than all the rest, and holds it two times
            pipeline = getattr(ppdiffusers, facts.pipeline).from_pretrained(
                str(readable), paddle_dtype="float32", from_diffusers=from_torch, low_cpu_mem_usage=True, **parts
            )
            _record_source(pipeline, readable, place)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(cant_be_loaded(name, error, flag)) from error
    tokenizers.limit_tokens(getattr(pipeline, facts.tokenizers[0]), pipeline.text_encoder)
    patches.keep_padding(pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _record_source(pipeline, readable, place):
    """Let the pipeline's settings name the folder where it is from, as the library notes it, not that of the links."""
    place = str(Path(place))
    pipeline.register_to_config(_name_or_path=place)
    for part, value in pipeline.components.items():
        if getattr(getattr(value, "config", None), "_name_or_path", None) == str(readable / part):
            value.register_to_config(_name_or_path=str(Path(place) / part))
        for name, setting in getattr(value, "init_kwargs", {}).items():
            if name.endswith("_file") and isinstance(setting, str):
                value.init_kwargs[name] = setting.replace(f"{readable}/", f"{place}/")


def put_in_lora(pipeline, place, scale, flag):
    """Merge a LoRA, which is a file or in a folder, into a pipeline's own weights."""
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    merge(networks, lora.read(lora.find_file(place, flag), flag), scale, f"{flag} {place}")


def load_tokenizer(name, flag=pipeline_folder.FLAG, revision=None):
    """The tokenizer of a model's prompts, alone."""
    from ppdiffusers import transformers

    index, place = look_up(name, revision, flag)
    part = registry.FAMILIES[index["_class_name"]].tokenizers[0]
    kind = getattr(transformers, index[part][1].removesuffix("Fast"))
    try:
        with layouts.readable(place, flag) as (readable, _):
            return kind.from_pretrained(str(readable), subfolder=part)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(cant_be_loaded(name, error, flag)) from error


def scheduler_settings(scheduler, name, revision=None):
    """A model's own settings of its scheduler: the library amends those that it finds outdated."""
    place = hub.find_model(name, revision)
    return type(scheduler).load_config(place, subfolder="scheduler")


def merge(networks, parts, scale=1.0, flag="--lora"):
    """Add the product of each layer's two matrices to the networks' own weights."""
    for part, layers in parts.items():
        own = dict(networks[part].named_sublayers()) if part in networks else {}
        flat = {name.replace(".", "_"): layer for name, layer in own.items()}
        for name, (down, up) in layers.items():
            names = (name, f"text_model.{name}")  # which transformers 5 leaves away
            layer = next((own[each] for each in names if each in own), flat.get(name))
            weight = getattr(layer, "weight", None)
            change = scale * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))
            if weight is not None and weight.ndim == 2:
                change = change.T
            if weight is None or weight.size != change.size or weight.ndim == 2 and weight.shape != list(change.shape):
                raise BadInput(f"{flag}: it is of another model; this one has no place for {part}.{name}")
            changed = weight.numpy().astype(np.float32) + change.reshape(weight.shape)
            weight.set_value(changed.astype(weight.numpy().dtype))
