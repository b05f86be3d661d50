"""The plan of a run: its input, checked before the libraries are loaded, and the lines that describe it."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.config import sections
from dreambooth.data import picture_files, transforms
from dreambooth.data.concepts import Picture
from dreambooth.data.rare_words import RareWords
from dreambooth.models import pipeline_folder, tokenizers
from dreambooth.run import checkpoints, output_folder, tracking
from dreambooth.run.checkpoints import Checkpoint
from dreambooth.system import console, machine, processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dreambooth.config.config import Config
    from dreambooth.config.run_sections import MemorySettings, SavingSettings
    from dreambooth.config.sections import ConceptSettings
    from dreambooth.models.families.base import Family
    from dreambooth.system.types import Network

_BYTES = 4  # of a number in float32
_FEW_STEPS = 100
_CLASS_HASHES = "the class pictures' hashes"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run whose input is checked."""

    pictures: tuple[Picture, ...]
    others: tuple[Path, ...]  # files in the pictures' folder that are no pictures
    steps: int
    fingerprint: dict[str, Any]  # the input that decides on the run's updates
    resumed: Checkpoint | None = None

    @property
    def class_hashes(self) -> list[str]:
        """The hashes of the class pictures with which a resumed run began."""
        return self.resumed.state["course"].get(_CLASS_HASHES, []) if self.resumed else []


def make(config: Config) -> tuple[Config, Plan]:
    """Check all input. A resumed run takes its seed from the checkpoint, unless the settings have one."""
    model, saving = config.model.pretrained_model_name_or_path, config.saving
    pictures, others = picture_files.find_pictures(config.concepts.instance_data_dir, "--instance_data_dir")
    pipeline_folder.check(model)
    folders = {"--logging_dir": config.log_folder}
    if config.concepts.class_data_dir:
        folders["--class_data_dir"] = Path(config.concepts.class_data_dir)
    output_folder.check(Path(saving.output_dir), folders, config.lora.saves_pipeline)
    world = processes.world_size()
    if config.memory.early_update and world > 1:
        raise BadInput(f"--early_update can't be combined with {world} processes, which average all their gradients")
    steps = config.total_steps(len(pictures), world)
    resumed = None
    if saving.resume_from_checkpoint:
        resumed, problems = checkpoints.find(saving.resume_from_checkpoint, saving.output_dir)
        for problem in problems:
            console.warn(problem)
        if config.run.seed is None:
            config = config.with_seed(resumed.state["course"]["seed"])
    fingerprint = config.fingerprint(steps, world)
    fingerprint["pretrained_model_name_or_path"] = pipeline_folder.fingerprint(model)
    fingerprint["the pictures' hashes"] = [picture.sha256 for picture in pictures]
    plan = Plan(tuple(pictures), tuple(others), steps, fingerprint, resumed)
    if resumed:
        _check_resumed(resumed, plan, Path(saving.output_dir), saving.allow_changes)
    for warning in _warnings(config, pictures, steps):
        console.warn(warning)
    return config, plan


def agree(config: Config, plan: Plan) -> tuple[Config, Plan]:
    """Choose a seed for all processes, unless there is one.

    Raises BadInput where the processes do not have the same input, as on machines whose folders differ.
    """
    if processes.is_different_anywhere((plan.fingerprint, plan.steps)):
        raise BadInput(
            "--instance_data_dir: not all processes have the same pictures, model and flags;"
            " give the machines the same command and the same folders"
        )
    resumed = plan.resumed and (plan.resumed.state["step"], plan.resumed.state["written_ns"])
    if processes.is_different_anywhere(resumed):
        raise BadInput("--resume_from_checkpoint: not all processes see the same checkpoint; share or copy the folder")
    if config.run.seed is not None:
        return config, plan
    seed = processes.broadcast(secrets.randbelow(2**31))
    return config.with_seed(seed), dataclasses.replace(plan, fingerprint={**plan.fingerprint, "seed": seed})


def with_class_pictures(
    plan: Plan, pictures: Sequence[Picture], concepts: ConceptSettings, saving: SavingSettings
) -> Plan:
    """Copy the plan with the class pictures' hashes.

    Raises BadInput where another process has other pictures, or the resumed run had.
    """
    hashes = [picture.sha256 for picture in pictures]
    if processes.is_different_anywhere(hashes):
        raise BadInput(f"--class_data_dir {concepts.class_data_dir}: all machines must see the same folder")
    if plan.resumed:
        recorded = {_CLASS_HASHES: plan.resumed.state["course"].get(_CLASS_HASHES)}
        _check_changes(plan.resumed.folder, recorded, {_CLASS_HASHES: hashes}, saving.allow_changes)
    return dataclasses.replace(plan, fingerprint={**plan.fingerprint, _CLASS_HASHES: hashes})


def _check_changes(folder: Path, recorded: Mapping[str, Any], current: Mapping[str, Any], allowed: bool) -> None:
    changes = checkpoints.differences(recorded, current)
    if changes and not allowed:
        raise BadInput(
            f"--resume_from_checkpoint {folder}: the run would go on differently ({'; '.join(changes)});"
            " give the same flags, or --allow_changes to go on with the new ones"
        )
    for change in changes:
        console.warn(f"resuming with a change: {change}")


def _check_resumed(resumed: Checkpoint, plan: Plan, output_dir: Path, allow_changes: bool) -> None:
    # the class pictures are compared when they have been drawn
    recorded, current = ({**each, _CLASS_HASHES: None} for each in (resumed.state["course"], plan.fingerprint))
    _check_changes(resumed.folder, recorded, current, allow_changes)
    step = resumed.state["step"]
    complete = step == plan.steps and not output_folder.lacks_result(output_dir, resumed)
    if complete or step > plan.steps:
        raise BadInput(
            f"--resume_from_checkpoint {resumed.folder}: it has {step} steps already and the run is to have"
            f" {plan.steps}; raise --max_train_steps to train on"
        )


def _warnings(config: Config, pictures: Sequence[Picture], steps: int) -> Iterator[str]:
    """Yield a warning for each allowed input that is probably a mistake."""
    yield from config.warnings()
    height, width = config.pictures.size
    squeezed = transforms.squeezed(pictures, config.pictures.size)
    if squeezed and not config.pictures.center_crop:
        yield (
            f"{len(squeezed)} of {len(pictures)} pictures are squeezed by more than a tenth to fit {width} x"
            f" {height} ({squeezed[0].path.name} among them); --center_crop crops them instead"
        )
    optimizer = config.optimizer
    if steps < _FEW_STEPS:
        flag = "max_train_steps" if optimizer.max_train_steps else "num_train_epochs"
        yield (
            f"--{flag} {getattr(optimizer, flag)}: {steps} updates seldom teach a subject; without the flag a run makes"
            f" {sections.DEFAULT_STEPS}, and {sections.DEFAULT_LORA_STEPS} with --lora_rank"
        )
    if optimizer.lr_scheduler not in sections.SCHEDULES_WITHOUT_WARMUP and optimizer.lr_warmup_steps >= steps:
        yield (
            f"--lr_warmup_steps {optimizer.lr_warmup_steps}: the run has only {steps} steps, so the learning rate"
            " never gets to its full height"
        )


def describe(config: Config, plan: Plan, family: Family, missing: Sequence[int]) -> None:
    """Print a line for each topic of the run; `missing` are the numbers of the class pictures to draw."""
    concepts, optimizer = config.concepts, config.optimizer
    name = config.model.pretrained_model_name_or_path
    source = "a local folder" if Path(name).is_dir() else "the hub's copy"
    console.print_message(f"model     {name} ({source}, {type(family).__name__})")
    passed_over = f"; {len(plan.others)} other files passed over" if plan.others else ""
    console.print_message(f"pictures  {len(plan.pictures)} in {concepts.instance_data_dir}{passed_over}")
    if concepts.with_prior_preservation:
        drawn = f", {len(missing)} of them still to be drawn" if missing else ""
        console.print_message(f"class     {concepts.num_class_images} pictures in {concepts.class_data_dir}{drawn}")
    trained = sum(_parameters(network) for network in family.trained().values())
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
    cores = machine.describe(split_of_update(config.memory, family))
    console.print_message(f"device    {f'CPU: {machine.in_words(cores)}' if cores else processes.card_name()}")
    if config.run.dry_run:
        gigabytes = _memory(family, config.memory, optimizer.ema_decay is not None) / 1e9
        what = "for weights, gradients and optimizer; activations come on top"
        console.print_message(f"memory    about {gigabytes:.2f} GB {what}")
    else:
        watch = tracking.watch_command(config.log_folder, config.logging.writer_type)
        console.print_message(f"log       {config.log_folder}; to watch it: {watch}")
    for warning in _later_warnings(config, plan, family):
        console.warn(warning)
    if config.run.dry_run:
        console.print_message("dry run   all is in order, and nothing was written")


def split_of_update(memory: MemorySettings, family: Family) -> machine.Split:
    """Return how an update uses the cores: an early one can't be shared, since a worker's gradients come after it."""
    return family.split._replace(workers=1) if memory.early_update else family.split


def _later_warnings(config: Config, plan: Plan, family: Family) -> Iterator[str]:
    """Yield the warnings that need the libraries or the model."""
    concepts, precision = config.concepts, config.memory.mixed_precision
    if reason := processes.reason_against_card():
        yield f"this machine has a card, but the run uses the CPU: {reason}"
    if precision != "no" and not processes.is_on_gpu():
        yield f"--mixed_precision {precision} needs a GPU; this run computes in float32"
    if config.memory.early_update and family.split.workers > 1:
        yield "--early_update: one core makes the updates of this small network, which workers could share without it"
    before = plan.resumed.state["arguments"].get("machine") if plan.resumed else None
    if before and before != machine.describe(split_of_update(config.memory, family)):
        yield (
            f"the checkpoint was made on another machine or split ({machine.in_words(before)}), so the last bits of the"
            " result may differ from those of a run without the stop"
        )
    class_prompt = concepts.class_prompt if concepts.with_prior_preservation else None
    if concepts.instance_prompt != class_prompt:  # which has its own warning
        yield from RareWords(family.tokenizer).problems(concepts.instance_prompt, class_prompt)
    for prompt in (concepts.instance_prompt, concepts.class_prompt, *(config.logging.validation_prompt or ())):
        truncated = tokenizers.truncated_text(family.tokenizer, prompt) if prompt else ""
        if truncated:
            yield f'the prompt "{prompt}" is too long for the tokenizer; this part is lost: "{truncated}"'


def _parameters(network: Network) -> int:
    return sum(each.size for each in network.parameters())


def _memory(family: Family, settings: MemorySettings, is_averaged: bool) -> float:
    """Estimate the bytes of weights, gradients and optimizer, at their peak before or during the updates."""
    from dreambooth.training import optimizers

    networks = family.networks()
    trained = sum(_parameters(network) for network in family.trained().values())
    beneath = sum(_parameters(networks[part]) for part in family.adapters)  # the frozen networks that a LoRA adapts
    kept = optimizers.OPTIMIZERS[optimizers.DEFAULT].bytes_per_weight
    # a weight that trains has the optimizer's accumulators, and a gradient until it is used
    numbers = (1 if settings.early_update else 2) + is_averaged
    updates = (numbers * _BYTES + kept) * trained + _BYTES * beneath
    return max(updates, _BYTES * sum(_parameters(network) for network in networks.values()))
