"""All training settings: the sections together, and every check across them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreambooth.config import concept_sections, learning_sections, run_sections, sections
from dreambooth.config.checks import conflicts
from dreambooth.config.commands import DrawSettings
from dreambooth.config.concept_sections import SubjectSettings
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dreambooth.config.fields import Section

Result = Literal["pipeline", "LoRA", "word"]

# what earlier versions did, whose records have no such settings
_EARLIER = {
    "optimizer": "adamw",
    "caption_dropout": 0.0,
    "class_captions": "off",
    "class_prompts_from_captions": False,
    "use_alpha": False,
    "random_crop": False,
    "color_jitter": 0.0,
    "prior_by_prediction": False,
    "trained_layers": None,
    "keep_best": False,
    "snr_gamma": None,
    "loss_type": "l2",
    "noise_offset": 0.0,
    "input_perturbation": 0.0,
    "zero_terminal_snr": False,
    "min_timestep": 0,
    "max_timestep": None,
    "timestep_sampling": None,
    "timestep_shift": 1.0,
    "learn_identifier": None,
    "initializer_token": None,
    "identifier_lr": None,
    "without_t5": False,
}


@dataclass(frozen=True)
class Config:
    """The settings of a training run."""

    model: sections.ModelSettings
    concepts: concept_sections.ConceptSettings
    word: sections.WordSettings = field(default_factory=sections.WordSettings)
    pictures: sections.PictureSettings = field(default_factory=sections.PictureSettings)
    lora: learning_sections.LoraSettings = field(default_factory=learning_sections.LoraSettings)
    objective: learning_sections.ObjectiveSettings = field(default_factory=learning_sections.ObjectiveSettings)
    optimizer: learning_sections.OptimizerSettings = field(default_factory=learning_sections.OptimizerSettings)
    memory: run_sections.MemorySettings = field(default_factory=run_sections.MemorySettings)
    drawing: run_sections.SampleSettings = field(default_factory=run_sections.SampleSettings)
    saving: run_sections.SavingSettings = field(default_factory=run_sections.SavingSettings)
    logging: run_sections.LoggingSettings = field(default_factory=run_sections.LoggingSettings)
    choosing: run_sections.ChoosingSettings = field(default_factory=run_sections.ChoosingSettings)
    run: run_sections.RunSettings = field(default_factory=run_sections.RunSettings)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)  # by flag; without one: the default

    def __post_init__(self) -> None:
        conflicts.check_schedule(self.optimizer, self.base_rate)
        conflicts.check_early_update(self.optimizer, self.memory)
        conflicts.check_class(self.concepts)
        conflicts.check_pictures(self.pictures, self.concepts, self.memory)
        conflicts.check_layers(self.model, self.lora)
        conflicts.check_word(self.word, self.concepts, self.model, self.lora)
        conflicts.check_measures(self.choosing, self.logging, self.concepts)
        conflicts.check_output(self.saving, self.model)

    @classmethod
    def from_flat(cls, **values: Any) -> Config:
        """Make a Config from values by flag; a flag that is missing has its default."""
        homes = {name: section for section in SECTIONS for name in _flags_of(SECTIONS[section])}
        unknown = sorted(values.keys() - homes.keys())
        if unknown:
            raise TypeError(f"no such setting: {', '.join(unknown)}")
        values |= _filled(values)
        if values.get("concepts") is not None:
            values["concepts"] = tuple(_subject(number, each) for number, each in enumerate(values["concepts"], 1))
        parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, value in values.items():
            parts[homes[name]][name] = value
        made: dict[str, Any] = {section: SECTIONS[section](**part) for section, part in parts.items()}
        return cls(**made)

    def flat(self) -> dict[str, Any]:
        """List the values by flag, with the learning rate that is used."""
        values = {name: getattr(getattr(self, section), name) for section, name, _ in _fields()}
        if several := self.concepts.concepts:
            given = [dataclasses.asdict(each) for each in several]
            values["concepts"] = [{name: value for name, value in each.items() if value is not None} for each in given]
        return {**values, "learning_rate": self.base_rate}

    def with_seed(self, seed: int) -> Config:
        """Copy the settings with another seed."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, seed=seed))

    @property
    def seed(self) -> int:
        """The seed of a run that has one."""
        assert self.run.seed is not None
        return self.run.seed

    @property
    def log_folder(self) -> Path:
        """The folder of the log."""
        return Path(self.saving.output_dir) / self.logging.logging_dir

    def draw_settings(self, purpose: str) -> DrawSettings:
        """Put together how the run draws pictures for a purpose: "class picture", or "picture"."""
        scheduler = self.drawing.prior_scheduler
        of_class = purpose == "class picture"
        return DrawSettings(
            self.seed,
            purpose,
            self.pictures.size,
            steps=self.drawing.prior_inference_steps,
            scheduler=None if scheduler == "own" else scheduler,
            batch_size=self.drawing.sample_batch_size,
            negative_prompt=self.concepts.class_negative_prompt if of_class else None,
            precision=self.memory.mixed_precision,
            steps_flag="--prior_inference_steps",
            scheduler_flag="--prior_scheduler",
            is_scheduler_chosen=scheduler != run_sections.DEFAULT_SOLVER,
            negative_flag="--class_negative_prompt",
        )

    @property
    def has_masks(self) -> bool:
        """Check whether pictures may have masks."""
        return self.pictures.has_masks or any(each.mask_dir for each in self.concepts.subjects)

    @property
    def measures(self) -> str | None:
        """What is measured on the way, in words; None where nothing is. Scores of others can't be compared."""
        if self.choosing.first is None:
            return None
        logging, drawing = self.logging, self.drawing
        if self.choosing.clip_model_path is None:
            return f"the loss, every {logging.validation_steps} updates"
        # the first words also tell them from the scores of earlier versions
        clip = f"what sets the subject apart by {self.choosing.clip_model_path}"
        drawn = f"{logging.validation_count} pictures of each of {list(logging.validation_prompt or ())}"
        solver = f"{drawing.prior_scheduler} in {drawing.prior_inference_steps} steps"
        return f"{clip}, every {logging.validation_steps} updates, {drawn} by {solver}"

    def total_steps(self, pictures: Sequence[int], processes: int) -> int:
        """Count the updates in the whole run on so many pictures of each subject."""
        return self.optimizer.total_steps(self.concepts.epoch(pictures), processes, self.default_steps)

    @property
    def default_steps(self) -> int:
        """The updates of a run that names neither updates nor epochs."""
        if not self.leaves_networks:
            return learning_sections.DEFAULT_STEPS
        return learning_sections.DEFAULT_LORA_STEPS if self.lora.lora_rank else learning_sections.DEFAULT_WORD_STEPS

    @property
    def leaves_networks(self) -> bool:
        """Whether the networks themselves stay as they are: a LoRA trains, or a word alone."""
        return self.word.is_alone or self.lora.lora_rank is not None

    @property
    def result(self) -> Result:
        """What a run writes: a whole pipeline, also where it has a LoRA beside it, or the LoRA or the word alone."""
        if self.word.is_alone:
            return "word"
        return "pipeline" if self.lora.lora_merge or not self.lora.lora_rank else "LoRA"

    @property
    def base_rate(self) -> float:
        """The learning rate before --scale_lr."""
        if self.optimizer.optimizer in learning_sections.RATE_FREE:
            return self.optimizer.learning_rate or 1.0
        default = learning_sections.DEFAULT_RATE if self.lora.lora_rank is None else learning_sections.DEFAULT_LORA_RATE
        if self.word.is_alone:
            default = self.word.rate
        return self.optimizer.learning_rate or default

    def rates(self, parts: Iterable[str], denoiser: str, processes: int) -> dict[str, float]:
        """Map each trainable part to its learning rate after --scale_lr; all but the denoiser are text encoders."""
        scale = self.optimizer.global_batch(processes) if self.optimizer.scale_lr else 1
        text_encoder = self.optimizer.text_encoder_lr or self.base_rate
        is_found = self.optimizer.optimizer in learning_sections.RATE_FREE
        word = self.word.identifier_lr or (self.base_rate if self.word.is_alone or is_found else self.word.rate)
        own = {denoiser: self.base_rate, sections.WORDS: word}
        return {part: own.get(part, text_encoder) * scale for part in parts}

    def fingerprint(self, steps: int, processes: int) -> dict[str, Any]:
        """List the settings that decide on an update, by flag; a resumed run is compared with them."""
        values = {name: getattr(getattr(self, section), name) for section, name, is_course in _fields() if is_course}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        for name in ("resolution", "height", "width"):
            values.pop(name)
        values["height"], values["width"] = self.pictures.size
        values["learning_rate"] = self.base_rate
        for name in (each.name for each in dataclasses.fields(self.lora)):
            values.pop(name, None)
        values |= self.lora.course()
        if self.objective.loss_type == "l2":
            values.pop("huber_c")
        values["train_batch_size x gradient_accumulation_steps x processes"] = self.optimizer.global_batch(processes)
        for name in ("instance_prompt", "concepts", "class_prompt", "num_class_images"):
            values.pop(name)
        values |= self.concepts.course()
        if not self.concepts.keeps_class:
            values.pop("prior_loss_weight")
        values["center_crop"] = self.pictures.mode == "crop"
        if values.pop("resize_mode") in ("pad", "buckets"):
            values["resize_mode"] = self.pictures.mode
        if not self.has_masks:
            values.pop("unmasked_weight")
        values["trained_layers"] = list(self.model.layers) if self.model.layers else None
        for name, before in _EARLIER.items():
            if values[name] == before:
                values.pop(name)
        if self.measures is not None:
            values["measures"] = self.measures
        if self.optimizer.lr_scheduler not in learning_sections.SCHEDULES_WITHOUT_END:
            values["max_train_steps"] = steps
        return values


# the sections in the order of the help
SECTIONS: dict[str, type[Section]] = {
    "model": sections.ModelSettings,
    "concepts": concept_sections.ConceptSettings,
    "word": sections.WordSettings,
    "pictures": sections.PictureSettings,
    "lora": learning_sections.LoraSettings,
    "objective": learning_sections.ObjectiveSettings,
    "optimizer": learning_sections.OptimizerSettings,
    "memory": run_sections.MemorySettings,
    "drawing": run_sections.SampleSettings,
    "saving": run_sections.SavingSettings,
    "logging": run_sections.LoggingSettings,
    "choosing": run_sections.ChoosingSettings,
    "run": run_sections.RunSettings,
}


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prompts of values by flag with the subject in the place of {}."""
    subject, filled = values.get("subject"), {}
    for name in ("instance_prompt", "validation_prompt"):
        if value := values.get(name):
            texts = [value] if isinstance(value, str) else value
            remedy = concept_sections.BY_FLAG if not values.get("concepts") else "write the words of one of --concepts"
            texts = tuple(concept_sections.fill(text, subject, f"--{name} {text}", remedy) for text in texts)
            filled[name] = texts[0] if isinstance(value, str) else texts
    return filled


def _subject(number: int, values: Mapping[str, Any] | SubjectSettings) -> SubjectSettings:
    """Make one of several subjects from its values; an error names it by its number."""
    if isinstance(values, SubjectSettings):
        return values
    try:
        return SubjectSettings(**{"instance_data_dir": "", "instance_prompt": "", **values})
    except BadInput as error:
        raise BadInput(f"--concepts: subject {number}: {str(error).removeprefix('--')}") from None


def _flags_of(section: type[Section]) -> list[str]:
    return [each.name for each in dataclasses.fields(section)]


def _fields() -> Iterator[tuple[str, str, bool]]:
    """Yield (section, flag, whether it decides what an update does) of all settings."""
    for section, kind in SECTIONS.items():
        for each in dataclasses.fields(kind):
            yield section, each.name, each.metadata["course"]
