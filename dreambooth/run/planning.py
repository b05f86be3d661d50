"""What a run will do: all that can be checked before the libraries are loaded, and the lines that describe it."""

import dataclasses
import shlex
from pathlib import Path

from dreambooth.config import sections
from dreambooth.data import picture_files, transforms
from dreambooth.data.rare_words import RareWords
from dreambooth.models import pipeline_folder, tokenizers
from dreambooth.run import checkpoints, output_folder, tracking
from dreambooth.system import console
from dreambooth.system import processes as system_processes
from dreambooth.system.errors import BadInput

BYTES = 4  # of a number in float32
CLASS_HASHES = "the class pictures' hashes"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run whose input has been found to be good."""

    pictures: tuple
    others: tuple  # files in the pictures' folder that are none
    steps: int
    course: dict  # what decides how the run goes
    resumed: checkpoints.Checkpoint | None = None

    @property
    def class_hashes(self) -> list[str]:
        """The hashes of the class pictures with which a resumed run began."""
        return self.resumed.state["course"].get(CLASS_HASHES, []) if self.resumed else []


def make(config):
    """Check all input; (config, plan), where a resumed run takes its seed from the checkpoint unless one is given."""
    pictures, others = picture_files.find_pictures(config.concepts.instance_data_dir, "--instance_data_dir")
    pipeline_folder.check(config.model.pretrained_model_name_or_path)
    output_folder.check(config)
    processes = system_processes.world_size()
    steps = config.optimizer.total_steps(config.concepts.epoch(len(pictures)), processes)
    resumed = None
    if config.saving.resume_from_checkpoint:
        resumed, problems = checkpoints.find(config.saving.resume_from_checkpoint, config.saving.output_dir)
        for problem in problems:
            console.warn(problem)
        if config.run.seed is None:
            config = config.with_seed(resumed.state["course"]["seed"])
    course = config.course(steps, processes)
    course["pretrained_model_name_or_path"] = pipeline_folder.fingerprint(config.model.pretrained_model_name_or_path)
    course["the pictures' hashes"] = [picture.sha256 for picture in pictures]
    if resumed:
        check_resumed(config, *resumed, course, steps)
    for warning in warnings(config, pictures, steps):
        console.warn(warning)
    return config, Plan(tuple(pictures), tuple(others), steps, course, resumed)


def check_same(plan):
    """Refuse processes that do not have the same input, as on machines whose folders differ."""
    if system_processes.is_different_anywhere((plan.course, plan.steps)):
        raise BadInput(
            "--instance_data_dir: not all processes have the same pictures, model and flags;"
            " give the machines the same command and the same folders"
        )
    if system_processes.is_different_anywhere(
        plan.resumed and (plan.resumed.state["step"], plan.resumed.state["written_ns"])
    ):
        raise BadInput("--resume_from_checkpoint: not all processes see the same checkpoint; share or copy the folder")


def check_class_pictures(config, plan, class_pictures):
    """The plan with the class pictures' hashes in it; refused where the processes or a resumed run saw others."""
    hashes = [picture.sha256 for picture in class_pictures]
    if system_processes.is_different_anywhere(hashes):
        raise BadInput(f"--class_data_dir {config.concepts.class_data_dir}: all machines must see the same folder")
    if plan.resumed:
        folder, state = plan.resumed
        check_changes(config, folder, {CLASS_HASHES: state["course"].get(CLASS_HASHES)}, {CLASS_HASHES: hashes})
    return dataclasses.replace(plan, course={**plan.course, CLASS_HASHES: hashes})


def check_changes(config, folder, recorded, current):
    changed = checkpoints.differences(recorded, current)
    if changed and not config.saving.allow_changes:
        raise BadInput(
            f"--resume_from_checkpoint {folder}: the run would go on differently ({'; '.join(changed)});"
            " give the same flags, or --allow_changes to go on with the new ones"
        )
    for change in changed:
        console.warn(f"resuming with a change: {change}")


def check_resumed(config, folder, state, course, steps):
    # the class pictures are compared when they have been drawn
    check_changes(config, folder, {**state["course"], CLASS_HASHES: None}, {**course, CLASS_HASHES: None})
    complete = state["step"] == steps and not output_folder.lacks_result(config.saving.output_dir, state)
    if complete or state["step"] > steps:
        raise BadInput(
            f"--resume_from_checkpoint {folder}: it has {state['step']} steps already and the run is to have {steps};"
            " raise --max_train_steps to train on"
        )


def warnings(config, pictures, steps):
    yield from config.warnings()
    height, width = config.pictures.size
    squeezed = transforms.squeezed(pictures, config.pictures.size)
    if squeezed and not config.pictures.center_crop:
        yield (
            f"{len(squeezed)} of {len(pictures)} pictures are squeezed by more than a tenth to fit {width} x"
            f" {height} ({squeezed[0].path.name} among them); --center_crop crops them instead"
        )
    optimizer = config.optimizer
    if optimizer.lr_scheduler not in sections.SCHEDULES_WITHOUT_WARMUP and optimizer.lr_warmup_steps >= steps:
        yield (
            f"--lr_warmup_steps {optimizer.lr_warmup_steps}: the run has only {steps} steps, so the learning rate"
            " never gets to its full height"
        )


def parameters(network):
    return sum(each.size for each in network.parameters())


def describe(config, plan, family, missing):
    """Say in one line each what will be done."""
    from dreambooth.training import optimizers

    name = config.model.pretrained_model_name_or_path
    source = "a local folder" if Path(name).is_dir() else "the hub's copy"
    console.print_message(f"model     {name} ({source}, {type(family).__name__})")
    passed_over = f"; {len(plan.others)} other files passed over" if plan.others else ""
    console.print_message(f"pictures  {len(plan.pictures)} in {config.concepts.instance_data_dir}{passed_over}")
    if config.concepts.with_prior_preservation:
        drawn = f", {len(missing)} of them still to be drawn" if missing else ""
        console.print_message(
            f"class     {config.concepts.num_class_images} pictures in {config.concepts.class_data_dir}{drawn}"
        )
    networks = family.trained()
    learned = sum(parameters(network) for network in networks.values())
    beside = f"a LoRA of rank {config.lora.lora_rank} beside " if config.lora.lora_rank else ""
    console.print_message(
        f"learning  {beside}{' and '.join(networks)}: {learned / 1e6:.{3 if beside else 1}f} million parameters"
    )
    processes = system_processes.world_size()
    epochs = plan.steps * config.optimizer.global_batch(processes) / config.concepts.epoch(len(plan.pictures))
    start = f", from step {plan.resumed.state['step']} ({plan.resumed.folder})" if plan.resumed else ""
    split = f"batch {config.optimizer.train_batch_size} x accumulation {config.optimizer.gradient_accumulation_steps}"
    split += f" x {processes} processes" if processes > 1 else ""
    console.print_message(f"steps     {plan.steps} updates ({split}), {epochs:.3g} epochs{start}")
    console.print_message(f"seed      {config.run.seed}")
    if config.run.dry_run:
        everything = sum(parameters(network) for network in family.networks().values())
        beneath = sum(parameters(family.networks()[part]) for part in family.adapters)  # what a LoRA lies beside
        kept = optimizers.OPTIMIZERS[optimizers.DEFAULT].bytes_per_weight
        # a weight that learns has a gradient and the optimizer's accumulators
        gigabytes = max((2 * BYTES + kept) * learned + BYTES * beneath, BYTES * everything) / 1e9
        console.print_message(
            f"memory    about {gigabytes:.2f} GB for weights, gradients and optimizer; activations come on top"
        )
    else:
        folder = output_folder.log_folder(config)
        console.print_message(
            f"log       {folder}; to watch it: {tracking.watch_command(folder, config.logging.writer_type)}"
        )
    if config.memory.mixed_precision != "no" and not system_processes.is_on_gpu():
        console.warn(f"--mixed_precision {config.memory.mixed_precision} needs a GPU; this run computes in float32")
    tokens = RareWords(family.tokenizer)
    class_prompt = config.concepts.class_prompt if config.concepts.with_prior_preservation else None
    if config.concepts.instance_prompt != class_prompt:  # which has its own warning
        for complaint in tokens.problems(config.concepts.instance_prompt, class_prompt):
            console.warn(complaint)
    for prompt in (
        config.concepts.instance_prompt,
        config.concepts.class_prompt,
        *(config.logging.validation_prompt or ()),
    ):
        lost = tokenizers.truncated_text(family.tokenizer, prompt) if prompt else ""
        if lost:
            console.warn(f'the prompt "{prompt}" is too long for the tokenizer; this part is lost: "{lost}"')


def draw_command(config, python="python", script="infer.py"):
    """The infer.py command that draws with the result."""
    folder, prompt = shlex.quote(config.saving.output_dir), quoted(config.concepts.instance_prompt)
    return f"{python} {script} --model_path {folder} --prompt {prompt}"


def quoted(prompt):
    """A prompt in double quotes, as a person would type it, unless a shell would read it otherwise."""
    return shlex.quote(prompt) if set(prompt) & set('"$`\\!') else f'"{prompt}"'


def stopped(step, folder):
    return (
        f"stopped as asked after step {step}; {folder} holds it all."
        " To go on: the same command with --resume_from_checkpoint latest"
    )


def not_finite(what, step, rate, last):
    verb = "are" if what == "weights" else "is"
    kept = f"; {last} is the last checkpoint, though an earlier one may be sounder" if last else ""
    return f"the {what} {verb} not finite at step {step}, learning rate {rate:.3g}: give a lower --learning_rate{kept}"
