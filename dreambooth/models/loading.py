"""From the name of a model to its family, or to its tokenizer alone."""

from __future__ import annotations

import copy
import importlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.config import sections
from dreambooth.files import records
from dreambooth.files.safetensors import Reader
from dreambooth.models import hub, layouts, pipeline_folder, registry, saving, schedulers, tokenizers
from dreambooth.system import console, disk
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dreambooth.files.lora import Layers
    from dreambooth.files.records import Base
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array, Arrays, Network, Pipeline, Scheduler, Tokenizer


_NO_LENGTH = 1e-12  # of weights that are all zero, which stay so


@dataclass(frozen=True)
class Source:
    """The origin of a model."""

    name: str  # a folder, or a name on the hub
    revision: str | None = None
    tokenizer_name: str | None = None  # in place of the model's own tokenizer
    without_t5: bool = False  # and so without the parts that a model of its family may lack

    def load_pipeline(self, flag: str = pipeline_folder.FLAG, **parts: Any) -> Pipeline:
        """Load the library's pipeline in float32, without the safety checker.

        `parts` are taken as they are given, not loaded.
        """
        import ppdiffusers

        index, folder = _find_index(self, flag)
        facts = (
            registry.without_t5(registry.facts_of(index), self.name) if self.without_t5 else registry.facts_of(index)
        )
        storage.transpose_last_layer(each[1] for each in index.values() if isinstance(each, list))
        try:
            with storage.all_weights_found(), layouts.readable(folder, flag) as (readable, from_torch):
                # without low_cpu_mem_usage the library first fills each network with random numbers, which takes longer
                # than all the rest, and needs twice the memory
                pipeline = getattr(ppdiffusers, facts.pipeline).from_pretrained(
                    str(readable),
                    paddle_dtype="float32",
                    from_diffusers=from_torch,
                    low_cpu_mem_usage=True,
                    **{**parts, **facts.omitted},
                )
                for part, paths in layouts.networks_in_parts(readable):
                    if part not in parts:
                        saving.settle(getattr(pipeline, part), paths)
                _record_source(pipeline, readable, Path(folder))
        except BadInput:
            raise
        except Exception as error:
            raise _cannot_load(self, error, flag) from error
        readers = tokenizers.readers(pipeline, facts)
        for tokenizer, text_encoder in readers:
            tokenizers.limit_tokens(tokenizer, text_encoder)
            storage.keep_padding(text_encoder)
        tokenizers.limit_alike(readers)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def fingerprint(self) -> str:
        """Summarize the model by its files, wherever its folder is; a name on the hub is fetched first."""
        return pipeline_folder.fingerprint(hub.find_model(self.name, self.revision))

    def scheduler_settings(self, scheduler: Scheduler) -> dict[str, Any]:
        """Read a model's own settings of its scheduler, which the library amends where it finds them outdated."""
        folder = hub.find_model(self.name, self.revision)
        return type(scheduler).load_config(folder, subfolder="scheduler")


def load_family(
    source: Source, flag: str = pipeline_folder.FLAG, train_text_encoders: bool = False, lora_scale: float = 1.0
) -> Family:
    """Load a model. The folder of a LoRA or of a checkpoint stands for its base model with these weights in it."""
    if base := records.find_base(source.name, flag):
        return _load_onto_base(base, source, flag, lora_scale)
    pipeline = source.load_pipeline(flag)
    facts = registry.FAMILIES[type(pipeline).__name__]
    if source.tokenizer_name:
        if len(facts.tokenizers) > 1 or not facts.text_encoders:
            kind = f"{len(facts.tokenizers)} tokenizers" if facts.text_encoders else "the one of T5"
            raise BadInput(f"--tokenizer_name: {source.name} has {kind}, in its own folder")
        part = facts.tokenizers[0]
        own, text_encoder = getattr(pipeline, part), getattr(pipeline, facts.text_encoders[0])
        setattr(pipeline, part, tokenizers.another_tokenizer(source.tokenizer_name, own, text_encoder))
    module, class_name = facts.family.split(":")
    family_class = getattr(importlib.import_module(f"dreambooth.models.families.{module}"), class_name)
    return family_class(pipeline, source, train_text_encoders)


def _record_source(pipeline: Pipeline, readable: Path, folder: Path) -> None:
    """Let the pipeline's settings name the folder where it is from, as the library notes it, not that of the links."""
    pipeline.register_to_config(_name_or_path=str(folder))
    for part, value in pipeline.components.items():
        if getattr(getattr(value, "config", None), "_name_or_path", None) == str(readable / part):
            value.register_to_config(_name_or_path=str(folder / part))
        for name, setting in getattr(value, "init_kwargs", {}).items():
            if name.endswith("_file") and isinstance(setting, str):
                value.init_kwargs[name] = setting.replace(f"{readable}/", f"{folder}/")


def load_tokenizers(source: Source, flag: str = pipeline_folder.FLAG) -> list[Tokenizer]:
    """Load the tokenizers alone whose words can be an identifier."""
    from ppdiffusers import transformers

    if base := records.find_base(source.name, flag):
        found = load_tokenizers(Source(base.model, base.revision, base.tokenizer), flag)
        words = records.read_words(Path(source.name), sections.WORDS, flag)
        for tokenizer in found:
            tokenizer.add_tokens([word for word in words if word not in tokenizer.get_vocab()])
        return found
    index, folder = _find_index(source, flag)
    parts = registry.facts_of(index).tokenizers
    classes = {part: getattr(transformers, index[part][1].removesuffix("Fast")) for part in parts}
    try:
        if source.tokenizer_name:
            return [each.from_pretrained(source.tokenizer_name) for each in classes.values()]
        with layouts.readable(folder, flag) as (readable, _):
            return [each.from_pretrained(str(readable), subfolder=part) for part, each in classes.items()]
    except BadInput:
        raise
    except Exception as error:
        raise _cannot_load(source, error, flag) from error


def check_draws(name: str, flag: str) -> None:
    """Refuse a model, fetched where it is not here, that draws nothing from a prompt alone."""
    base = records.find_base(name, flag)
    index, _ = _find_index(Source(base.model, base.revision) if base else Source(name), flag)
    if (facts := registry.facts_of(index)).enlarges:
        raise pipeline_folder.enlarges(name, facts, flag)


def _find_index(source: Source, flag: str) -> tuple[dict[str, Any], str]:
    """Find a model, fetch it where it is not here, and check it: its model_index.json and its folder."""
    folder = hub.find_model(source.name, source.revision, flag)
    pipeline_folder.check(folder, flag)
    return pipeline_folder.read_index(folder), folder


def _cannot_load(source: Source, error: Exception, flag: str) -> BadInput | disk.DiskFull:
    if reason := disk.reason(error):  # the library reads links in a temporary folder, and converted weights
        copy = f"a copy of {source.name} in {tempfile.gettempdir()}"
        return disk.DiskFull(
            copy, whole="the model itself is whole; set TMPDIR to a folder with more room", reason=reason
        )
    # the library reads a folder of links, which is gone when the user reads this
    links = re.escape(tempfile.gettempdir()) + r"/dreambooth-[^/\s]+"
    text = re.sub(links, lambda _: str(source.name), " ".join(str(error).split()))
    return BadInput(f"{flag} {source.name}: it can't be loaded ({text})")


def _load_onto_base(base: Base, source: Source, flag: str, lora_scale: float) -> Family:
    """Load the base model of a folder that holds what a run changed, and put that into it."""
    name, without_t5 = source.name, source.without_t5 or base.without_t5
    try:
        family = load_family(Source(base.model, base.revision, base.tokenizer, without_t5), flag)
        weights = family.source.fingerprint()
    except BadInput as error:
        raise BadInput(f"{flag} {name}: it is a {base.kind}, and its base model can't be used ({error})") from error
    if base.weights and base.weights.split()[0] == weights.split()[0] and base.weights != weights:
        console.warn(f"{flag} {name}: its base model {base.model} has other weights than it had for this {base.kind}")
    if base.is_lora:
        merge_lora(family, name, lora_scale, flag)
        return family
    add_words(family, Path(name), flag)
    if not base.is_checkpoint:
        return family
    for part in records.weights_by_part(Path(name), flag).keys() - {sections.WORDS}:
        if part not in family.facts.learners:
            raise BadInput(f"{flag} {name}: it is of another model; this one has no {part} that trains")
        set_weights(family.networks()[part], part, records.weights_of_part(Path(name), part, flag), f"{flag} {name}")
    _take_noise_schedule(family, Path(name), flag)
    return family


def _take_noise_schedule(family: Family, path: Path, flag: str) -> None:
    """Let a noise schedule end in noise alone, where that of the run in a folder, or of a file there, did."""
    if not records.has_zero_snr(path if path.is_dir() else path.parent):
        return
    if family.pipeline.scheduler.config.prediction_type != "v_prediction":
        raise BadInput(f"{flag} {path}: it was made with --zero_terminal_snr, for a model that predicts the velocity")
    schedulers.set_zero_snr(family.pipeline)


def to_half(networks: Mapping[str, Network], kind: str) -> None:
    """Bring networks that do not train to half precision.

    Beside a LoRA, their products are computed in it anyway, and their numbers would be cast in every pass.
    """
    for network in networks.values():
        network.to(dtype=kind)


def reload_halves(family: Family) -> Family:
    """Copy the family, with the networks that were brought to half precision loaded again."""
    family = copy.copy(family)
    family.pipeline = copy.copy(family.pipeline)
    for part, network in family.learners().items():
        if "float32" not in str(next(iter(network.parameters())).dtype):
            setattr(family.pipeline, part, None)
    return family.whole()


def set_weights(network: Network, part: str, weights: Arrays, what: str) -> None:
    """Give a network weights of the same names and shapes."""
    own = network.state_dict()
    ours = {name: list(value.shape) for name, value in own.items()}
    theirs = (
        weights.shapes() if isinstance(weights, Reader) else {name: [*each.shape] for name, each in weights.items()}
    )
    if ours != theirs:
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise BadInput(
            f"{what}: it is of another model; {len(odd)} of the {part}'s weights differ in name or shape, {odd[0]}"
            " among them"
        )
    for name, value in own.items():
        value.set_value(weights[name])


def add_words(family: Family, folder: Path, flag: str) -> None:
    """Give a model the learned words of a folder, if it has any."""
    put_words(family, records.read_words(folder, sections.WORDS, flag), f"{flag} {folder}")


def put_words(family: Family, words: Arrays, flag: str = "--learn_identifier") -> None:
    """Write the vectors of words into the tables of the text encoders, which are saved; they may lack them yet."""
    if words:
        tokenizers.add_words(tokenizers.readers(family.pipeline, family.facts), words, flag)


def merge_lora(family: Family, path: str | Path, scale: float, flag: str) -> None:
    """Merge a LoRA, which is a file or in a folder, into a model's own weights, with the words beside it."""
    if Path(path).is_dir():
        add_words(family, Path(path), flag)
    _take_noise_schedule(family, Path(path), flag)
    networks = {part: network for part, network in family.networks().items() if part in family.facts.learners}
    layers = records.read_lora(path, flag, registry.LORA_PARTS)
    merge(networks, layers, scale, f"{flag} {path}")


def merge(
    networks: Mapping[str, Network], parts: Mapping[str, Layers], scale: float = 1.0, flag: str = "--lora"
) -> None:
    """Add the product of each layer's two matrices to the networks' own weights; `parts` is the result of lora.read.

    Of a DoRA, which changes the lengths of the weights too, a scale other than 1 is a share of the whole change.
    """
    for part, layers in parts.items():
        own = dict(networks[part].named_sublayers()) if part in networks else {}
        flat = {name.replace(".", "_"): layer for name, layer in own.items()}
        for name, (down, up, lengths) in layers.items():
            names = (name, *(facts.prefix + name for facts in registry.TEXT_ENCODER_CLASSES))
            layer = next((own[each] for each in names if each in own), flat.get(name))
            weight = getattr(layer, "weight", None)
            change = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            if weight is not None and weight.ndim == 2:
                change = change.T
            if weight is None or weight.size != change.size or weight.ndim == 2 and weight.shape != list(change.shape):
                raise BadInput(f"{flag}: it is of another model; this one has no place for {part}.{name}")
            before = weight.numpy().astype(np.float32)
            changed = before + (change if lengths is not None else scale * change).reshape(weight.shape)
            if lengths is not None:
                changed = before + scale * (_with_lengths(changed, lengths) - before)
            weight.set_value(changed.astype(weight.numpy().dtype))


def _with_lengths(weight: Array, lengths: Array) -> Array:
    """Scale the weights of each output to a length; a product's outputs are its columns."""
    if weight.ndim == 2:
        return weight * (lengths / np.maximum(np.linalg.norm(weight, axis=0), _NO_LENGTH))
    factors = lengths / np.maximum(np.linalg.norm(weight.reshape(len(weight), -1), axis=1), _NO_LENGTH)
    return weight * factors.reshape(-1, *[1] * (weight.ndim - 1))
