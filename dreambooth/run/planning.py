"""The plan of a run: its input, checked before the libraries are loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.config import learning_sections
from dreambooth.config.checks import doubts
from dreambooth.config.config import Config
from dreambooth.data import picture_files, surveys, transforms
from dreambooth.data.concepts import Picture
from dreambooth.data.surveys import Survey
from dreambooth.drawing.instruments import clip
from dreambooth.files import records
from dreambooth.models import pipeline_folder, registry
from dreambooth.run import checkpoints, output_folder
from dreambooth.run.checkpoints import Checkpoint
from dreambooth.system import console, processes
from dreambooth.system.errors import BadInput
from dreambooth.system.types import Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dreambooth.config.concept_sections import ConceptSettings
    from dreambooth.config.run_sections import SavingSettings
    from dreambooth.models.family.base import Family

_FEW_STEPS = 100
_CLASS_HASHES, _CLASS_CAPTIONS = "the class pictures' hashes", "the class pictures' captions"
_LOSS = "the loss"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run whose input is checked."""

    survey: Survey
    steps: int
    fingerprint: dict[str, Any]  # the input that decides on the run's updates
    resumed: Checkpoint | None = None
    done: int | None = None  # the updates of this very run's result, where none is left to do
    replaces: bool = False  # another run in the output folder
    signs: dict[str, int] = dataclasses.field(default_factory=dict)  # of the runs there, when the plan was made
    held_out: tuple[Picture, ...] = ()  # other pictures of the subject, to measure with
    sizes: tuple[Size, ...] = ()  # that pictures may have; known when the model is loaded
    base_index: dict[str, Any] = dataclasses.field(default_factory=dict)  # its classes, before parts are freed

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of all subjects."""
        return self.survey.pictures

    @property
    def is_complete(self) -> bool:
        """Whether the run has all its updates and its result."""
        return self.done is not None

    @property
    def class_hashes(self) -> list[str]:
        """The hashes of the class pictures with which a resumed run began."""
        return self.resumed.state["course"].get(_CLASS_HASHES, []) if self.resumed else []


def make(config: Config) -> tuple[Config, Plan]:
    """Check all input. A resumed run takes its seed from the checkpoint, unless the settings have one."""
    model, saving = config.model.pretrained_model_name_or_path, config.saving
    survey = surveys.survey(config.concepts, config.pictures)
    pipeline_folder.check(model)
    if named := config.choosing.clip_model_path:
        clip.check_before_loading(named, "--clip_model_path")
    concepts, output_dir = config.concepts, Path(saving.output_dir)
    class_folders = dict.fromkeys(each.folder for each in concepts.classes)
    folders = [("--logging_dir", config.log_folder), *(("--class_data_dir", Path(each)) for each in class_folders)]
    output_folder.check(output_dir, folders, config.result == "pipeline" or saving.overwrite)
    signs = checkpoints.signs_of_runs(output_dir)
    world = processes.world_size()
    if config.memory.early_update and world > 1:
        raise BadInput(f"--early_update can't be combined with {world} processes, which average all their gradients")
    steps = config.total_steps(survey.counts, world)
    pictures = survey.pictures
    hashes = [[picture.sha256 for picture in concept.pictures] for concept in survey.concepts]
    changes = output_folder.changes_to_earlier(output_dir, config.flat(), survey.concepts)
    resumed = None
    begins_anew = bool(changes) and saving.overwrite and saving.resume_from_checkpoint == "latest"
    if begins_anew:
        console.print_message(f"resume    {output_dir} holds another run, which --overwrite replaces: the run begins")
    elif saving.resume_from_checkpoint:
        resumed, problems = checkpoints.find(saving.resume_from_checkpoint, saving.output_dir)
        for problem in problems:
            console.warn(problem)
        if resumed is not None and config.run.seed is None:
            config = config.with_seed(resumed.state["course"]["seed"])
    done = None
    is_newest = resumed is None or not output_folder.lacks_result(output_dir, resumed)
    if saving.resume_from_checkpoint == "latest" and not changes and is_newest:
        done = _updates_of_result(config, steps, world)
    if saving.resume_from_checkpoint and not begins_anew and resumed is None and done is None:
        console.print_message(f"resume    {saving.output_dir} holds no checkpoint yet: the run begins")
    fingerprint = config.fingerprint(steps, world)
    masks = [surveys.hashes_of_masks(concept) for concept in survey.concepts]
    if any(masks):
        fingerprint["the masks' hashes"] = masks if len(masks) > 1 else masks[0]
    before = resumed.state["course"].get("pretrained_model_name_or_path") if resumed else None
    fingerprint["pretrained_model_name_or_path"] = pipeline_folder.fingerprint(model, before)
    fingerprint["the pictures' hashes"] = hashes if len(hashes) > 1 else hashes[0]
    if any(picture.caption for picture in pictures):
        fingerprint["the pictures' captions"] = _hash_of(picture.caption for picture in pictures)
    if resumed is not None and resumed.folder.resolve().parent == output_dir.resolve():
        changes = []  # its own record is compared
    if changes and saving.overwrite:
        inputs = [("--instance_data_dir", each.instance_data_dir) for each in concepts.subjects]
        inputs += [("--class_data_dir", each) for each in class_folders]
        inputs += [("--validation_data_dir", config.choosing.validation_data_dir or "")]
        output_folder.check_inputs(output_dir, config.log_folder, inputs)
    elif changes:
        raise BadInput(
            f"--output_dir {output_dir}: it holds another run ({'; '.join(changes)}); give a new folder, or --overwrite"
            " to replace that run"
        )
    replaces = bool(changes)
    held_out = surveys.held_out(config.choosing.validation_data_dir, survey)
    if held_out:
        fingerprint["the validation pictures' hashes"] = [picture.sha256 for picture in held_out]
    plan = Plan(survey, steps, fingerprint, resumed, done, replaces, signs, held_out)
    if resumed and done is None:
        plan = _check_resumed(resumed, plan, saving)
    for warning in (*survey.problems, *_warnings(config, survey, pictures, steps)):
        console.warn(warning)
    return config, plan


def _hash_of(texts: Iterable[str | None]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def agree(settings: Config, config: Config, plan: Plan) -> tuple[Config, Plan]:
    """Choose a seed for all processes, unless there is one; the output folder is this run's own by now.

    A plan is made anew from the settings where another run has written into the folder since. Raises BadInput where the
    processes do not have the same input, as on machines whose folders differ.
    """
    if processes.is_true_anywhere(plan.signs != checkpoints.signs_of_runs(Path(config.saving.output_dir))):
        config, plan = make(settings)
    if processes.is_different_anywhere((plan.fingerprint, plan.steps)):
        raise BadInput(
            "--instance_data_dir: not all processes have the same pictures, model and flags;"
            " give the machines the same command and the same folders"
        )
    resumed = plan.resumed and (plan.resumed.state["step"], plan.resumed.state["written_ns"])
    if processes.is_different_anywhere((resumed, plan.done)):
        raise BadInput("--resume_from_checkpoint: not all processes see the same checkpoint; share or copy the folder")
    if config.run.seed is not None:
        return config, plan
    seed = processes.broadcast(secrets.randbelow(2**31))
    return config.with_seed(seed), dataclasses.replace(plan, fingerprint={**plan.fingerprint, "seed": seed})


def with_sizes(plan: Plan, family: Family, config: Config) -> Plan:
    """Copy the plan with the base's classes and the pictures' sizes; refuse what the family's latents can't do."""
    flags = {
        "--mask_dir": config.has_masks and not config.pictures.use_alpha,
        "--use_alpha": config.pictures.use_alpha,
        "--resize_mode pad": config.pictures.mode == "pad",
        "--resize_mode buckets": config.pictures.mode == "buckets",
    }
    for flag, is_given in flags.items():
        if is_given and not family.facts.has_places:
            raise BadInput(f"{flag}: this model takes whole pictures of one size; leave it out")
    sizes: tuple[Size, ...] = (config.pictures.size,)
    if config.pictures.mode == "buckets":
        sizes = transforms.buckets(config.pictures.size, max(8, family.size_step))  # 64 pixels for Stable Diffusion
    surveys.check_crops(plan.survey, config.pictures, sizes)
    return dataclasses.replace(plan, sizes=sizes, base_index=registry.index_of(family.pipeline))


def with_loss(plan: Plan, losses: Sequence[str], saving: SavingSettings) -> Plan:
    """Copy the plan with the family's loss, where it changed over the versions.

    Raises BadInput where the resumed run had an earlier one.
    """
    if not losses:
        return plan
    if plan.resumed:
        recorded = {_LOSS: plan.resumed.state["course"].get(_LOSS, losses[0])}
        _check_changes(plan.resumed.folder, recorded, {_LOSS: losses[-1]}, saving.allow_changes)
    return dataclasses.replace(plan, fingerprint={**plan.fingerprint, _LOSS: losses[-1]})


def with_class_pictures(
    plan: Plan, found: Sequence[Sequence[Picture]], concepts: ConceptSettings, saving: SavingSettings
) -> Plan:
    """Copy the plan with the pictures found of each class.

    Raises BadInput where another process has other pictures, or the resumed run had.
    """
    pictures = [picture for several in found for picture in several]
    hashes = [picture.sha256 for picture in pictures]
    if processes.is_different_anywhere(hashes):
        folders = " ".join(dict.fromkeys(each.folder for each in concepts.classes))
        raise BadInput(f"--class_data_dir {folders}: all machines must see the same folder")
    own: dict[str, Any] = {_CLASS_HASHES: hashes}
    if any(picture.caption for picture in pictures):
        own[_CLASS_CAPTIONS] = _hash_of(picture.caption for picture in pictures)
    if plan.resumed:
        recorded = {name: plan.resumed.state["course"].get(name) for name in (_CLASS_HASHES, _CLASS_CAPTIONS)}
        _check_changes(plan.resumed.folder, recorded, {_CLASS_CAPTIONS: None, **own}, saving.allow_changes)
    numbers = [concepts.class_of(subject) for subject in concepts.subjects]
    complete = tuple(
        concept if number is None else dataclasses.replace(concept, class_pictures=tuple(found[number]))
        for number, concept in zip(numbers, plan.survey.concepts)
    )
    survey = plan.survey._replace(concepts=complete)
    return dataclasses.replace(plan, survey=survey, fingerprint={**plan.fingerprint, **own})


def _check_changes(folder: Path, recorded: Mapping[str, Any], current: Mapping[str, Any], allowed: bool) -> None:
    changes = checkpoints.differences(recorded, current)
    if changes and not allowed:
        raise BadInput(
            f"--resume_from_checkpoint {folder}: the run would go on differently ({'; '.join(changes)});"
            " give the same flags, or --allow_changes to go on with the new ones"
        )
    for change in changes:
        console.warn(f"resuming with a change: {change}")


def _check_resumed(resumed: Checkpoint, plan: Plan, saving: SavingSettings) -> Plan:
    """Refuse a checkpoint of another run, or of a longer one; return the plan, which may be complete."""
    # the class pictures are compared when they have been drawn, the loss when the model is loaded
    later = {_CLASS_HASHES: None, _CLASS_CAPTIONS: None, _LOSS: None}
    recorded, current = ({**each, **later} for each in (resumed.state["course"], plan.fingerprint))
    _check_changes(resumed.folder, recorded, current, saving.allow_changes)
    step = resumed.state["step"]
    if step > plan.steps:
        raise BadInput(
            f"--resume_from_checkpoint {resumed.folder}: it has {step} steps already and the run is to have"
            f" {plan.steps}; raise --max_train_steps to train on"
        )
    is_complete = step == plan.steps and not output_folder.lacks_result(Path(saving.output_dir), resumed)
    return dataclasses.replace(plan, done=step if is_complete else None)


def _updates_of_result(config: Config, steps: int, world: int) -> int | None:
    """Count the updates of the result in the output folder, if it is of this run and has all that are asked for.

    Its subject and base model are compared elsewhere, and a seed counts where one is given.
    """
    record = records.read_result(Path(config.saving.output_dir)) or {}
    try:
        done = int(record["steps"])
        then = Config.from_flat(**record["flags"]).fingerprint(done, record["processes"])
    except (BadInput, KeyError, TypeError, ValueError):  # of an earlier version, or edited
        return None
    now = config.fingerprint(steps, world)
    compared = now.keys() - {"pretrained_model_name_or_path", *(["seed"] if config.run.seed is None else [])}
    return done if done >= steps and all(then.get(name) == now[name] for name in compared) else None


def _warnings(config: Config, survey: Survey, pictures: Sequence[Picture], steps: int) -> Iterator[str]:
    """Yield a warning for each allowed input that is probably a mistake."""
    yield from doubts.warnings(config)
    saving = config.saving
    if not saving.resume_from_checkpoint and not saving.overwrite and checkpoints.scan(saving.output_dir)[0]:
        yield (
            f"--output_dir {saving.output_dir}: it holds checkpoints, which this run begins to replace; to go on with"
            " them: --resume_from_checkpoint latest"
        )
    if phone := picture_files.phone_pictures(survey.others):
        yield f"{phone[0].name} is in a phone's format, HEIC, and not trained on; convert it to JPEG"
    height, width = config.pictures.size
    tiny = [picture for picture in pictures if 2 * min(picture.size) < min(height, width)]
    if tiny:
        shown = f"{tiny[0].path.name} has {tiny[0].size[1]} x {tiny[0].size[0]} pixels"
        yield f"{len(tiny)} of {len(pictures)} pictures are less than half as large as --resolution needs ({shown})"
    squeezed = transforms.squeezed(pictures, config.pictures.size)
    if squeezed and config.pictures.mode == "squeeze":
        yield (
            f"{len(squeezed)} of {len(pictures)} pictures are squeezed by more than a tenth to fit {width} x"
            f" {height} ({squeezed[0].path.name} among them); --center_crop crops them instead,"
            " --resize_mode buckets crops less, and pad keeps them whole"
        )
    optimizer = config.optimizer
    if steps < _FEW_STEPS:
        flag = "max_train_steps" if optimizer.max_train_steps else "num_train_epochs"
        yield (
            f"--{flag} {getattr(optimizer, flag)}: {steps} updates seldom teach a subject; without the flag a run of"
            f" this kind makes {config.default_steps}"
        )
    if optimizer.lr_scheduler not in learning_sections.SCHEDULES_WITHOUT_WARMUP and optimizer.lr_warmup_steps >= steps:
        yield (
            f"--lr_warmup_steps {optimizer.lr_warmup_steps}: the run has only {steps} steps, so the learning rate"
            " never gets to its full height"
        )
