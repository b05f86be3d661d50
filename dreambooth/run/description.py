"""The lines that describe a run before it begins, and the warnings that need the libraries or the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.data import rare_words
from dreambooth.data.rare_words import RareWords
from dreambooth.drawing import prior_pictures
from dreambooth.models import tokenizers
from dreambooth.run import tracking
from dreambooth.system import console, disk, libraries, machine, processes
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dreambooth.config.config import Config
    from dreambooth.config.run_sections import MemorySettings
    from dreambooth.models.families.base import Family
    from dreambooth.run.memory.budget import Budget
    from dreambooth.run.planning import Plan
    from dreambooth.system.types import Network

_BYTES = 4  # of a number in float32
_DEFAULT = "the defaults"


def describe(config: Config, plan: Plan, family: Family, missing: Sequence[int], budget: Budget) -> None:
    """Print a line for each topic of the run; `missing` are the numbers of the class pictures to draw."""
    concepts, optimizer = config.concepts, config.optimizer
    name = config.model.pretrained_model_name_or_path
    source = "a local folder" if Path(name).is_dir() else "the hub's copy"
    console.print_message(f"model     {name} ({source}, {type(family).__name__})")
    passed_over = f"; {len(plan.others)} other files passed over" if plan.others else ""
    height, width = config.pictures.size
    size = f"at {width} x {height}"
    fitted = {"squeeze": "", "crop": ", cropped", "pad": ", padded"}[config.pictures.mode]
    masked = sum(picture.mask is not None for picture in plan.pictures)
    masks = f", {masked} with a mask" if masked else ""
    console.print_message(
        f"pictures  {len(plan.pictures)} in {concepts.instance_data_dir}, {size}{fitted}{masks}{passed_over}"
    )
    of_class = f'; of the class: "{concepts.class_prompt}"' if concepts.with_prior_preservation else ""
    console.print_message(f"prompt    {_prompts(config, plan)}{of_class}")
    if concepts.with_prior_preservation:
        drawn = f", {len(missing)} of them still to be drawn into" if missing else " that are there, in"
        folder = prior_pictures.folder_of(concepts, family.source, config.pictures.size)
        console.print_message(
            f"class     {concepts.num_class_images} pictures{drawn} {folder if missing else concepts.class_data_dir}"
        )
    trained = _parameters(family.trained().values())
    beside = f"a LoRA of rank {config.lora.lora_rank} beside " if config.lora.lora_rank else ""
    millions = f"{trained / 1e6:.{3 if beside else 1}f} million parameters"
    averaged = f", averaged with --ema_decay {optimizer.ema_decay:g}" if optimizer.ema_decay else ""
    console.print_message(f"learning  {beside}{' and '.join(family.trained())}: {millions}{averaged}")
    world = processes.world_size()
    epochs = plan.steps * optimizer.global_batch(world) / concepts.epoch(len(plan.pictures))
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
    needed, free = _disk(config, plan, family), disk.free_space(Path(config.saving.output_dir))
    room = f"; {console.amount(free)} free" if free is not None else ""
    console.print_message(f"disk      {needed}{room} for {config.saving.output_dir}")
    for warning in _later_warnings(config, plan, family):
        console.warn(warning)
    if free is not None and free < needed.total:
        console.warn(
            f"--output_dir {config.saving.output_dir}: the run needs {console.amount(needed.total)} there and"
            f" {console.amount(free)} are free; --no_last_checkpoint and a lower --checkpoints_total_limit need less"
        )
    if config.run.dry_run:
        for line in _settings(config):
            console.print_message(f"settings  {line}")
        written = "only the sheet is written" if config.run.sheet else "nothing was written"
        console.print_message(f"dry run   all is in order, and {written}")


def _prompts(config: Config, plan: Plan) -> str:
    """Describe the prompts of the subject's pictures."""
    texts = list(dict.fromkeys(picture.caption for picture in plan.pictures if picture.caption))
    dropout = config.concepts.caption_dropout
    dropped = f", none for {dropout:.0%} of the examples" if dropout else ""
    if not texts:
        return f'"{config.concepts.instance_prompt}"{dropped}'
    different = f", {len(texts)} different" if len(texts) < len(plan.pictures) else ""
    return f'a caption for each picture, from {plan.captions}{different}: "{texts[0]}", …{dropped}'


def _settings(config: Config) -> Iterator[str]:
    """Yield a line for each source of settings with those that come from it and hold."""
    by_source: dict[str, list[str]] = {}
    for name, value in config.flat().items():
        by_source.setdefault(config.sources.get(name, _DEFAULT), []).append(f"{name} {_in_words(value)}")
    for source in sorted(by_source, key=lambda each: each == _DEFAULT):
        yield f"from {source}: {', '.join(by_source[source])}"


def _in_words(value: Any) -> str:  # noqa: ANN401  of any setting
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


def _later_warnings(config: Config, plan: Plan, family: Family) -> Iterator[str]:
    """Yield the warnings that need the libraries or the model."""
    concepts, precision = config.concepts, config.memory.mixed_precision
    if reason := libraries.reason_against_card():
        yield f"this machine has a card, but the run uses the CPU: {reason}"
    if precision != "no" and not processes.is_on_gpu():
        yield f"--mixed_precision {precision} needs a GPU; this run computes in float32"
    if config.memory.early_update and family.split.workers > 1:
        yield "--early_update: one core makes the updates of this small network, which workers could share without it"
    record = plan.resumed.state["arguments"] if plan.resumed else {}
    if changes := list(_changes_since(record, machine.describe(split_of_update(config.memory, family)))):
        yield (
            f"the checkpoint was made {' and '.join(changes)}, so the last bits of the result may differ from those of"
            " a run without the stop"
        )
    class_prompt = concepts.class_prompt if concepts.with_prior_preservation else None
    if concepts.instance_prompt != class_prompt:  # which has its own warning
        yield from RareWords(family.tokenizer).problems(concepts.instance_prompt, class_prompt)
    yield from _problems_of_captions(config, plan, family)
    own, size = family.default_size, config.pictures.size
    if not max(own) / 2 <= max(size) <= max(own) * 2:
        yield (
            f"--resolution {max(size)}: this model draws {own[1]} x {own[0]} pixels, and learns badly at a size so"
            f" different; give --resolution {max(own)}"
        )
    others = [each for each in (concepts.class_prompt, *(config.logging.validation_prompt or ())) if each]
    yield from tokenizers.truncations(family.tokenizer, [concepts.instance_prompt, *others])
    yield from rare_words.spelled_out(family.tokenizer, others)


def _problems_of_captions(config: Config, plan: Plan, family: Family) -> Iterator[str]:
    """Yield a sentence for the captions without the identifier, and for those that are too long."""
    named = [picture for picture in plan.pictures if picture.caption]
    class_prompt = config.concepts.class_prompt if config.concepts.with_prior_preservation else None
    identifier = (
        RareWords(family.tokenizer).identifier(config.concepts.instance_prompt, class_prompt) if named else None
    )
    without = [each for each in named if identifier and identifier not in (each.caption or "").lower()]
    if without:
        yield (
            f'{len(without)} of {len(named)} captions lack "{identifier}", the identifier of --instance_prompt'
            f" ({without[0].path.name}); their pictures teach it nothing"
        )
    ends = [(each, tokenizers.truncated_text(family.tokenizer, each.caption or "")) for each in named]
    if cut := [(picture, lost) for picture, lost in ends if lost]:
        picture, lost = cut[0]
        yield (
            f"{len(cut)} of {len(named)} captions are too long for the tokenizer; this part of that of"
            f' {picture.path.name} is lost: "{lost[:80]}"'
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


class Disk(NamedTuple):
    """The bytes that a run writes: of a checkpoint, how many of them it has at once, and of the result."""

    checkpoint: float
    checkpoints: int
    result: float

    @property
    def total(self) -> float:
        """The bytes of all together."""
        return self.checkpoint * self.checkpoints + self.result

    @override
    def __str__(self) -> str:
        several = "s" if self.checkpoints > 1 else ""
        more = (
            f", {self.checkpoints} checkpoint{several} of {console.amount(self.checkpoint)}" if self.checkpoints else ""
        )
        return f"{console.amount(self.total)}: the result {console.amount(self.result)}{more}"


def _disk(config: Config, plan: Plan, family: Family) -> Disk:
    """Estimate what the run writes, beside its log and pictures."""
    from dreambooth.training import optimizers

    saving, start = config.saving, plan.resumed.state["step"] if plan.resumed else 0
    trained = _parameters(family.trained().values())
    numbers = 1 + (config.optimizer.ema_decay is not None)
    checkpoint = trained * (numbers * _BYTES + optimizers.OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight)
    count = plan.steps // saving.save_steps - start // saving.save_steps
    count += saving.last_checkpoint and plan.steps % saving.save_steps > 0
    if saving.checkpoints_total_limit:
        count = min(count, saving.checkpoints_total_limit + 1)  # the oldest goes when the newest is whole
    pipeline = _parameters(family.networks().values()) if config.lora.saves_pipeline else 0
    return Disk(checkpoint, count, _BYTES * (pipeline + (trained if config.lora.lora_rank else 0)))


def _parameters(networks: Iterable[Network]) -> int:
    """Count the parameters of several networks."""
    return sum(each.size for network in networks for each in network.parameters())
