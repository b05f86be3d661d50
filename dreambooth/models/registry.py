"""The families of models by their pipelines, and what follows from their facts; readable before the libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth.models.family.facts import (
    CLIP_TEXT_ENCODER,
    DEEPFLOYD,
    DEEPFLOYD_UPSCALER,
    INPAINTING,
    SMALL,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_3,
    STABLE_DIFFUSION_XL,
    UNIDIFFUSER,
    UPSCALER,
    FamilyFacts,
)
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from dreambooth.config.learning_sections import LayerKind
    from dreambooth.system.types import Pipeline

_CLIP_SETTINGS_BEFORE_2023 = {
    "max_text_length": "max_position_embeddings",
    "text_embed_dim": "hidden_size",
    "text_heads": "num_attention_heads",
    "text_layers": "num_hidden_layers",
    "text_hidden_act": "hidden_act",
}
# The library imports whatever module and class model_index.json names; these are what genuine files have
LIBRARIES = (
    "ppdiffusers",
    "ppdiffusers.transformers",
    "paddlenlp.transformers",
    "diffusers",
    "diffusers_paddle",
    "transformers",
    "stable_diffusion",
    "alt_diffusion",
    "unidiffuser",
    "deepfloyd_if",
)


def _newer_clip_settings(old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a CLIP text encoder of before 2023 in their names of today; None if it is none."""
    if "text_layers" not in old:
        return None
    settings = {_CLIP_SETTINGS_BEFORE_2023.get(name, name): value for name, value in old.items()}
    settings.setdefault("hidden_act", "quick_gelu")
    settings["intermediate_size"] = 4 * settings["hidden_size"]
    settings["architectures"] = [settings.pop("init_class", CLIP_TEXT_ENCODER)]
    return {**settings, "bos_token_id": settings["vocab_size"] - 2, "eos_token_id": settings["vocab_size"] - 1}


@dataclass(frozen=True)
class TextEncoderFacts:
    """The facts of a class of text encoders whose files had another form at some time."""

    class_name: str
    model_type: str  # in its config.json
    prefix: str  # of its weights; transformers 5 omits it
    newer_settings: Callable[[Mapping[str, Any]], dict[str, Any] | None]  # from an old model_config.json

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Check whether a config.json is that of a network of this class."""
        return settings.get("model_type") == self.model_type or self.class_name in settings.get("architectures", ())


TEXT_ENCODER_CLASSES = (
    TextEncoderFacts(CLIP_TEXT_ENCODER, "clip_text_model", prefix="text_model.", newer_settings=_newer_clip_settings),
)


_ALL = (
    *(STABLE_DIFFUSION, UNIDIFFUSER, STABLE_DIFFUSION_XL, STABLE_DIFFUSION_3),
    *(INPAINTING, UPSCALER, DEEPFLOYD, DEEPFLOYD_UPSCALER),
)
FAMILIES = {facts.pipeline: facts for facts in _ALL}
# which layers of the networks a LoRA adapts, by the ends of their names
LAYER_KINDS: dict[LayerKind, str] = {
    "attention": r"(^|\.)(to_q|to_k|to_v|to_out\.0|q_proj|k_proj|v_proj|out_proj|query|key|value)$"
    r"|(^|\.)(add_[qkv]_proj|to_add_out)$",
    # the other layers of a transformer: before, after and between its attentions
    "feed_forward": r"(^|\.)(ff(_context)?\.net\.\d+(\.proj)?|fc1|fc2|proj_in|proj_out)$"
    r"|(^|\.)(intermediate\.dense|output\.dense)$",
    "convolution": r"(^|\.)(conv1|conv2|conv_shortcut|(down|up)samplers\.\d+\.conv)$",
    "time": r"(^|\.)((time_embedding|time_text_embed\.\w+)\.linear_[12]|time_emb_proj)$",
}
# of the cross-attention, the layers that see the prompt (Kumari et al. 2023, "Custom Diffusion")
_MORE_KINDS = {"key_value": r"(^|\.)attn2\.to_(k|v)$|(^|\.)attentions\.\d+\.add_(k|v)_proj$"}
# the beginning of a layer's name in LoRA files -> the part
LORA_PARTS = {
    **{prefix: part for facts in FAMILIES.values() for part, prefix in facts.lora_prefixes.items()},
    **{f"{part}.": part for facts in FAMILIES.values() for part in facts.learners},
    **{name: part for facts in FAMILIES.values() for name, part in facts.other_lora_names.items()},
}
TEXT_ENCODERS = {part for facts in FAMILIES.values() for part in facts.text_encoders}
# what web UIs load, in words
WEB_UI_NETWORKS = " or ".join(
    dict.fromkeys(facts.web_ui_networks for facts in FAMILIES.values() if facts.web_ui_networks)
)
# every name that the folder of a part may have
PARTS = {
    name for facts in FAMILIES.values() for name in (*facts.parts, *facts.newer_names.values(), *facts.optional_parts)
}
# every class that model_index.json may name; those of parts that are left out too
CLASSES = {
    *(each for facts in FAMILIES.values() for classes in facts.parts.values() for each in classes),
    *SMALL,
    "StableDiffusionSafetyChecker",
    "IFSafetyChecker",
    "IFWatermarker",
}


def facts_of(index: Mapping[str, Any]) -> FamilyFacts:
    """Return the facts of the model that a model_index.json is of; it may lack parts."""
    facts = FAMILIES[index["_class_name"]]
    return facts.without(part for part in facts.lackable if index.get(part) in (None, [None, None]))


def index_of(pipeline: Pipeline) -> dict[str, Any]:
    """Return the classes of a loaded pipeline and its parts, as model_index.json has them."""
    parts = {name: list(value) for name, value in pipeline.config.items() if isinstance(value, (list, tuple))}
    return {"_class_name": type(pipeline).__name__, **parts}


def unread_by_diffusers(index: Mapping[str, Any], parts: Iterable[str]) -> str:
    """Say what diffusers does not load of a LoRA of some parts of a model; "" where it loads all."""
    facts = facts_of(index)
    if not facts.lora_in_diffusers:
        return f"diffusers loads no LoRA of a {facts.pipeline}"
    others = [index[part][1] for part in parts if part in facts.text_encoders]
    others = [name for name in others if not name.startswith("CLIP")]
    return f"diffusers loads the UNet's part of the LoRA, and none of a {others[0]}" if others else ""


def without_t5(facts: FamilyFacts, name: str) -> FamilyFacts:
    """Return the facts of a model that is to be loaded without T5; refuse one that has none."""
    if facts.lackable and not {*facts.lackable} & facts.parts.keys():
        return facts  # its folder lacks it already
    if not facts.lackable:
        what = "reads prompts by T5 alone" if facts.reads_by_t5 else "has no T5"
        raise BadInput(f"--without_t5: {name} is a model of {facts.pipeline}, which {what}; leave it out")
    return facts.without(facts.lackable)


def choose_layers(layers: Iterable[str], targets: Sequence[str], untrained: Collection[str] = ()) -> dict[str, str]:
    """Map those layers that are chosen by targets to the first that each matches.

    A target is a kind of layers, or a pattern of their names. `untrained` are layers that see no gradient.
    """
    kinds = {str(kind): pattern for kind, pattern in LAYER_KINDS.items()} | _MORE_KINDS
    patterns = {target: re.compile(kinds.get(target, target)) for target in targets}
    found: dict[str, str] = {}
    for name in layers:
        if any(name == each or name.startswith(f"{each}.") for each in untrained):
            continue
        target = next((target for target, pattern in patterns.items() if pattern.search(name)), None)
        if target is not None:
            found[name] = target
    return found


def lora_prefixes(layers: Mapping[str, Collection[str]]) -> Mapping[str, str] | None:
    """Return {part: prefix of web UIs} for the layers of a LoRA alone, by part.

    None where web UIs load no such layers, or where the families with such layers have different prefixes. A family's
    text encoders are adapted all together, or not at all.
    """
    found = [
        {part: facts.lora_prefixes[part] for part in layers}
        for facts in FAMILIES.values()
        if facts.web_ui_layers.keys() >= layers.keys()
        and {*facts.text_encoders} & layers.keys() in ({*facts.text_encoders}, set())
        and all(re.match(facts.web_ui_layers[part], name) for part, names in layers.items() for name in names)
    ]
    return found[0] if found and all(each == found[0] for each in found) else None
