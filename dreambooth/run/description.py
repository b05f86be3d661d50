"""The lines that describe a run before it begins, and the warnings that need the libraries or the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.config import sections
from dreambooth.data import rare_words, transforms
from dreambooth.data.rare_words import RareWords
from dreambooth.drawing import prior_pictures
from dreambooth.models import registry, tokenizers
from dreambooth.run import disk_needs, tracking
from dreambooth.system import console, disk, libraries, machine, processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dreambooth.config.config import Config
    from dreambooth.config.run_sections import MemorySettings
    from dreambooth.data.concepts import Concept
    from dreambooth.drawing.prior_pictures import Found
    from dreambooth.models.family.base import Family
    from dreambooth.run.memory.budget import Budget
    from dreambooth.run.planning import Plan

_DEFAULT = "the defaults"
_SHOWN = 20  # pictures in a dry run


def describe(config: Config, plan: Plan, family: Family, found: Sequence[Found], budget: Budget) -> None:
    """Print a line for each topic of the run; `found` are the classes with their pictures."""
    from dreambooth.training import scope

    concepts, optimizer = config.concepts, config.optimizer
    name = config.model.pretrained_model_name_or_path
    source = "a local folder" if Path(name).is_dir() else "the hub's copy"
    console.print_message(f"model     {name} ({source}, {type(family).__name__})")
    for line in (*_data(config, plan), *_classes(config, family, found)):
        console.print_message(line)
    trained = scope.count(family.trained(), config.model.layers)
    beside = f"{config.lora.in_words} beside " if config.lora.lora_rank else ""
    count = str(trained) if config.word.is_alone else f"{trained / 1e6:.{3 if beside else 1}f} million"
    parts = " and ".join("the new words" if part == sections.WORDS else part for part in family.trained())
    averaged = f", averaged with --ema_decay {optimizer.ema_decay:g}" if optimizer.ema_decay else ""
    console.print_message(f"learning  {beside}{parts}: {count} parameters{averaged}")
    world = processes.world_size()
    epochs = plan.steps * optimizer.global_batch(world) / concepts.epoch(plan.survey.counts)
    start = f", from step {plan.resumed.state['step']} ({plan.resumed.folder})" if plan.resumed else ""
    split = f"batch {optimizer.train_batch_size} x accumulation {optimizer.gradient_accumulation_steps}"
    split += f" x {world} processes" if world > 1 else ""
    console.print_message(f"steps     {plan.steps} updates ({split}), {epochs:.3g} epochs{start}")
    rates = config.rates(family.trained(), family.facts.denoiser, world)
    shown = [f"{part} {rate:g}" if len({*rates.values()}) > 1 else f"{rate:g}" for part, rate in rates.items()]
    console.print_message(f"rate      {', '.join(dict.fromkeys(shown))}; {optimizer.lr_scheduler}")
    console.print_message(f"seed      {config.run.seed}")
    is_on_gpu = processes.is_on_gpu()
    cores = machine.in_words(machine.describe(split_of_update(config.memory, family)))
    device = libraries.card_name() if is_on_gpu else f"CPU: {cores}"
    precision = config.memory.mixed_precision if is_on_gpu else "no"
    console.print_message(f"device    {device}, {'float32' if precision == 'no' else precision}")
    if budget.attention:
        console.print_message(f"attention {budget.attention}")
    console.print_message(f"memory    {budget.line()}")
    if not config.run.dry_run:
        watch = tracking.watch_command(config.log_folder, config.logging.writer_type)
        console.print_message(f"log       {config.log_folder}; to watch it: {watch}")
    if plan.replaces:
        console.print_message(
            f"replaces  another run in {config.saving.output_dir}; its checkpoints, samples and log go"
        )
    needed, free = disk_needs.needs(config, plan, family), disk.free_space(Path(config.saving.output_dir))
    room = f"; {console.amount(free)} free" if free is not None else ""
    console.print_message(f"disk      {needed}{room} for {config.saving.output_dir}")
    for warning in _later_warnings(config, plan, family, found):
        console.warn(warning)
    if free is not None and free < needed.total:
        console.warn(
            f"--output_dir {config.saving.output_dir}: the run needs {console.amount(needed.total)} there and"
            f" {console.amount(free)} are free; --no_last_checkpoint and a lower --checkpoints_total_limit need less"
        )
    if config.run.dry_run:
        for line in (*_shown(config, plan), *_settings(config)):
            console.print_message(line)


def _data(config: Config, plan: Plan) -> Iterator[str]:
    """Yield the lines of the subjects' pictures and prompts."""
    concepts, (height, width) = plan.survey.concepts, config.pictures.size
    used = {transforms.nearest(picture.size, plan.sizes) for picture in plan.pictures}
    fitted = {
        "squeeze": "",
        "crop": ", cropped",
        "pad": ", padded",
        "buckets": f", cropped to {len(used)} shape{'s' if len(used) > 1 else ''} of that area",
    }[config.pictures.mode]
    masked = sum(picture.mask is not None for picture in plan.pictures)
    masks = f", {masked} with a mask" if masked else ""
    others = len(plan.survey.others)
    passed_over = f"; {others} other files passed over" if others else ""
    several = len(concepts) > 1
    where = f"of {len(concepts)} subjects" if several else f"in {config.concepts.subjects[0].instance_data_dir}"
    yield f"pictures  {len(plan.pictures)} {where}, at {width} x {height}{fitted}{masks}{passed_over}"
    total, dropout = sum(concept.weight for concept in concepts), config.concepts.caption_dropout
    dropped = f", none for {dropout:.0%} of the examples" if dropout else ""
    for subject, concept, source in zip(config.concepts.subjects, concepts, plan.survey.captions):
        texts = list(dict.fromkeys(picture.caption for picture in concept.pictures if picture.caption))
        said = f'"{concept.prompt}"'
        if texts:
            different = f", {len(texts)} different" if len(texts) < len(concept.pictures) else ""
            captioned = f'a caption for each picture, from {source}{different}: "{texts[0]}", …'
            said = f"{said}, {captioned}" if several else captioned
        of_class = f'; of the class: "{concept.class_prompt}"' if concept.class_prompt else ""
        if several:
            share = f"{len(concept.pictures)} pictures in {subject.instance_data_dir}, {concept.weight / total:.0%}"
            yield f"subject   {said}: {share} of the examples{dropped}{of_class}"
        else:
            yield f"prompt    {said}{dropped}{of_class}"


def _classes(config: Config, family: Family, found: Sequence[Found]) -> Iterator[str]:
    """Yield the line of each class."""
    for each in found:
        whose = f'of "{each.settings.prompt}"' if len(found) > 1 else ""
        drawn = f", {len(each.missing)} of them still to be drawn into" if each.missing else " that are there, in"
        folder = prior_pictures.folder_of(each.settings, family.source, config.pictures.size)
        is_drawn = each.missing and each.settings.prompts
        prompts = f"; drawn of {len(each.settings.prompts)} prompts from captions" if is_drawn else ""
        captioned = sum(picture.caption is not None for picture in each.pictures)
        prompts += f"; {captioned} with captions" if captioned else ""
        place = folder if each.missing else each.settings.folder
        yield f"class     {each.settings.count} pictures{' ' if whose else ''}{whose}{drawn} {place}{prompts}"


def _shown(config: Config, plan: Plan) -> Iterator[str]:
    """Yield a line for each of the first pictures: how the network will see it."""
    several = len(plan.survey.concepts) > 1
    for picture in plan.pictures[:_SHOWN]:
        view = transforms.views(picture.size, config.pictures, transforms.nearest(picture.size, plan.sizes))[0]
        name = str(picture.path) if several else picture.path.name
        yield f"picture   {name}: {transforms.in_words(view)}"
    if (more := len(plan.pictures) - _SHOWN) > 0:
        yield f"picture   and {more} more"


def _settings(config: Config) -> Iterator[str]:
    """Yield a line for each source of settings with those that come from it and hold."""
    by_source: dict[str, list[str]] = {}
    for name, value in config.flat().items():
        by_source.setdefault(config.sources.get(name, _DEFAULT), []).append(f"{name} {_in_words(value)}")
    for source in sorted(by_source, key=lambda each: each == _DEFAULT):
        yield f"settings  from {source}: {', '.join(by_source[source])}"


def _in_words(value: Any) -> str:  # noqa: ANN401  of any setting
    if isinstance(value, list):
        return f"{len(value)} subjects"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (str, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return "none" if value is None else str(value)


def split_of_update(memory: MemorySettings, family: Family) -> machine.Split:
    """Return how an update uses the cores: an early one can't be shared, since a worker's gradients come after it."""
    return family.split._replace(workers=1) if memory.early_update else family.split


def _later_warnings(config: Config, plan: Plan, family: Family, found: Sequence[Found]) -> Iterator[str]:
    """Yield the warnings that need the libraries or the model."""
    concepts, precision = config.concepts, config.memory.mixed_precision
    if reason := libraries.reason_against_card():
        yield f"this machine has a card, but the run uses the CPU: {reason}"
    if precision != "no" and not processes.is_on_gpu():
        yield f"--mixed_precision {precision} needs a GPU; this run computes in float32"
    if config.lora.lora_rank and config.saving.save_format == "diffusers":
        reason = registry.unread_by_diffusers(registry.index_of(family.pipeline), family.learners())
        if reason:
            yield f"--save_format diffusers: {reason}; this tool reads the file"
    if config.memory.early_update and family.split.workers > 1:
        yield "--early_update: one core makes the updates of this small network, which workers could share without it"
    record = plan.resumed.state["arguments"] if plan.resumed else {}
    if changes := list(_changes_since(record, machine.describe(split_of_update(config.memory, family)))):
        yield (
            f"the checkpoint was made {' and '.join(changes)}, so the last bits of the result may differ from those of"
            " a run without the stop"
        )
    words = RareWords(*family.tokenizers)
    for concept in plan.survey.concepts:
        if concept.prompt != concept.class_prompt:  # which has its own warning
            yield from words.problems(concept.prompt, concept.class_prompt)
        yield from _problems_of_captions(concept, words, family)
    yield from _same_identifiers(plan, words)
    own, size = family.default_size, config.pictures.size
    if not max(own) / 2 <= max(size) <= max(own) * 2:
        yield (
            f"--resolution {max(size)}: this model draws {own[1]} x {own[0]} pixels, and learns badly at a size so"
            f" different; give --resolution {max(own)}"
        )
    others = [*(each.prompt for each in concepts.classes), *(config.logging.validation_prompt or ())]
    captions = [picture.caption for each in found for picture in each.pictures if picture.caption]
    captions += [prompt for each in found for prompt in each.settings.prompts]
    subjects = [concept.prompt for concept in plan.survey.concepts]
    yield from tokenizers.truncations(family, [*subjects, *others, *captions])
    yield from rare_words.spelled_out(family.tokenizers[0], others)


def _same_identifiers(plan: Plan, words: RareWords) -> Iterator[str]:
    """Yield a sentence for subjects that share an identifier."""
    concepts = plan.survey.concepts
    prompts: dict[str, str] = {}
    for concept in concepts:
        identifier = words.identifier(concept.prompt, concept.class_prompt)
        if identifier in prompts:
            yield (
                f'"{prompts[identifier]}" and "{concept.prompt}" have one identifier, "{identifier}": the subjects'
                " would mix; give each its own, which python -m dreambooth.identifier lists"
            )
        elif identifier:
            prompts[identifier] = concept.prompt


def _problems_of_captions(concept: Concept, words: RareWords, family: Family) -> Iterator[str]:
    """Yield a sentence for the captions without the identifier, and for those that are too long."""
    named = [picture for picture in concept.pictures if picture.caption]
    identifier = words.identifier(concept.prompt, concept.class_prompt) if named else None
    without = [each for each in named if identifier and identifier not in (each.caption or "").lower()]
    if without:
        yield (
            f'{len(without)} of {len(named)} captions lack "{identifier}", the identifier of "{concept.prompt}"'
            f" ({without[0].path.name}); their pictures teach it nothing"
        )
    ends = [(each, *tokenizers.truncated(family, each.caption or "")) for each in named]
    for what, fate, parts in (
        ("tokenizer", "lost", [(picture, lost) for picture, _, lost in ends if lost]),
        ("CLIPs", "for T5 alone", [(picture, cut) for picture, cut, lost in ends if cut and not lost]),
    ):
        if parts:
            picture, part = parts[0]
            yield (
                f"{len(parts)} of {len(named)} captions are too long for the {what}; this part of that of"
                f' {picture.path.name} is {fate}: "{part[:80]}"'
            )


def _changes_since(record: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield, as text, with which other libraries and on which other device the run of a record was; `now` is this one.

    Records of older revisions lack some of that, and say nothing of it.
    """
    then, versions = record.get("versions") or {}, libraries.versions()
    names = [
        name for name in {**then, **versions} if then and name != "python" and then.get(name) != versions.get(name)
    ]
    if names:
        absent = "absent"
        changes = [f"{name} {then.get(name, absent)} (now {versions.get(name, absent)})" for name in names]
        yield f"with {', '.join(changes)}"
    before = record.get("machine")
    if before and before != now:
        yield f"on another machine or split ({machine.in_words(before)}; now {machine.in_words(now)})"
