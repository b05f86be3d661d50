"""DreamBooth: teach a text-to-image model one subject from three to five pictures.

    python train_dreambooth.py --pretrained_model_name_or_path CompVis/stable-diffusion-v1-4 \\
        --instance_data_dir ./dream_image --instance_prompt "a photo of sks dog" --output_dir ./dream_outputs \\
        --train_batch_size 1 --learning_rate 5e-6 --max_train_steps 400

with class pictures, so that other dogs stay dogs:

    ... --with_prior_preservation --class_data_dir ./class_images --class_prompt "a photo of a dog"

a LoRA, a file of a few megabytes beside the unchanged model:

    ... --lora_rank 4 --learning_rate 1e-4

on four cards:

    python -m paddle.distributed.launch --gpus 0,1,2,3 train_dreambooth.py ...
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING

from dreambooth.config.parser import read_config
from dreambooth.data import surveys
from dreambooth.data.batches import Batches
from dreambooth.drawing import prior_pictures
from dreambooth.files import weight_files
from dreambooth.models import loading, schedulers
from dreambooth.run import checkpoints, description, endings, model_card, output_folder, planning, tracking
from dreambooth.run.choosing import judges
from dreambooth.run.choosing.validation import Validation
from dreambooth.run.memory.budget import Budget
from dreambooth.run.report.single import Report
from dreambooth.system import console, disk, libraries, machine, processes
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.config.config import Config
    from dreambooth.data.concepts import Share
    from dreambooth.files.records import Record
    from dreambooth.models.family.base import Family
    from dreambooth.run.checkpoints import Stateful
    from dreambooth.run.planning import Plan
    from dreambooth.training.objective.diffusion import Diffusion


def main(argv: Sequence[str]) -> None:
    """Check the settings, and keep the output folder to this run while it lasts."""
    # Check all input before the libraries, which take seconds, are loaded
    settings = read_config(argv, __doc__)
    config, plan = planning.make(settings)
    with output_folder.claimed(config.saving.output_dir, not (config.run.dry_run or plan.is_complete)):
        prepare(settings, config, plan)


def prepare(settings: Config, config: Config, plan: Plan) -> None:
    """Load the model, describe the run, draw the class pictures that are missing; then train."""
    # Load the libraries, meet the other processes, look at the card, agree on a seed
    libraries.load(weight_files.READERS, config.run.verbose)
    processes.start()
    cards.check_precision(config.memory.mixed_precision)
    config, plan = planning.agree(settings, config, plan)
    if plan.done is not None:
        endings.describe_complete(plan.done, plan.steps, config.saving, is_resumed=plan.resumed is not None)
        return

    # Compare the memory that the run needs with what is free, before anything is loaded
    budget = Budget.of(config)
    budget.warn()
    with budget.explained():
        run(config, plan, budget)


def run(config: Config, plan: Plan, budget: Budget) -> None:
    """Load the model, describe the run, draw the class, and train."""
    from dreambooth.training import words
    from dreambooth.training.lora.adapters import Adapters
    from dreambooth.training.objective import diffusion as diffusions

    model = config.model
    name, revision = model.pretrained_model_name_or_path, model.revision
    source = loading.Source(name, revision, model.tokenizer_name, model.without_t5)
    family = loading.load_family(source, train_text_encoders=model.train_text_encoder)
    family.check_training(config.pictures.size, config.memory.gradient_checkpointing)
    plan = planning.with_sizes(plan, family, config)
    plan = planning.with_loss(plan, family.facts.losses, config.saving)
    facts = family.facts
    diffusion = diffusions.diffusion_for(family.pipeline.scheduler, config.objective, facts.has_places)
    family.adapters = Adapters(family.learners(), facts.denoiser, config.lora, config.seed, family.untrained_layers())
    words.learn(family, config.word, config.concepts.subjects)
    classes = surveys.classes(config.concepts, plan.survey, family.tokenizers)
    found = prior_pictures.scan(classes, source, config.pictures.size, plan.class_hashes)
    missing = any(each.missing for each in found)
    for purpose, is_drawn in (("class picture", missing), ("picture", config.logging.validation_prompt)):
        if is_drawn:
            family.check_drawing(config.draw_settings(purpose))
    description.describe(config, plan, family, found, budget)
    if config.run.dry_run:
        if config.run.sheet and processes.is_first():
            from dreambooth.drawing import data_sheets  # its fonts would delay every start

            data_sheets.write(config.run.sheet, plan.survey.concepts, found, config.pictures, plan.sizes)
        endings.describe_dry_run(config.run.sheet)
        return
    if plan.replaces:
        output_folder.clear(config.saving.output_dir, config.log_folder)

    # Draw the class with the base model
    class_pictures = prior_pictures.draw_missing(family, config.draw_settings("class picture"), found)
    if config.objective.zero_terminal_snr:
        schedulers.set_zero_snr(family.pipeline)
    plan = planning.with_class_pictures(plan, class_pictures, config.concepts, config.saving)
    with disk.explained(lambda: checkpoints.what_is_whole(config.saving.output_dir)):
        train(config, plan, family, diffusion)


def train(config: Config, plan: Plan, family: Family, diffusion: Diffusion) -> None:
    """Train the family on the subjects, and save the result."""
    from dreambooth.training import scope
    from dreambooth.training.best import Best
    from dreambooth.training.ema import Average
    from dreambooth.training.encodings import Encodings
    from dreambooth.training.objective import loss
    from dreambooth.training.objective.reference import Reference
    from dreambooth.training.team import Team
    from dreambooth.training.updates import Updates

    # Encode pictures and prompts, and free the encoders that are no longer needed
    seed, rank, world = config.seed, processes.rank(), processes.world_size()
    concepts, dropout = plan.survey.concepts, config.concepts.caption_dropout
    batches = Batches(concepts, config.optimizer, config.pictures, seed, rank, world, dropout, plan.sizes)
    by_prediction = config.concepts.prior_by_prediction
    encodings = Encodings(family, batches, config.memory, seed, keeps_base=by_prediction)
    measures = judges.of(config, plan, family, diffusion)
    family.free_encoders(pictures=encodings.are_kept)

    # Make the optimizer and the average; a resumed run takes weights and states from its checkpoint
    has_pictures = config.concepts.with_prior_preservation
    reference = Reference(family, diffusion, has_pictures) if by_prediction else None
    family.prepare_training(config.memory.gradient_checkpointing)
    scope.limit(family.trained(), config.model.layers)
    rates = config.rates(family.trained(), family.facts.denoiser, world)
    ratio = config.lora.loraplus_lr_ratio or 1
    updates = Updates(config.optimizer, family.trained(), rates, plan.steps, config.memory, ratio)
    if config.leaves_networks and updates.half:
        loading.to_half(family.learners(), updates.half)  # the LoRA or the word stays float32
    average = Average(config.optimizer.ema_decay, updates.named)
    best = Best(config.choosing.keep_best, config.choosing.patience, updates.named, config.measures)
    split = description.split_of_update(config.memory, family)
    base, device = plan.fingerprint["pretrained_model_name_or_path"], machine.describe(split)
    flags, index = config.flat(), plan.base_index
    record = output_folder.make_record(flags, plan.steps, world, device, concepts, base, index, plan.sizes)
    states: dict[str, Stateful] = {"optimizer": updates, **average.stateful, **best.stateful}
    saved = checkpoints.Checkpointer(config.saving, family.trained(), states, plan.fingerprint, record)
    start = saved.load(plan.resumed) if plan.resumed else 0

    # Open the log
    folder, is_first = config.saving.output_dir, processes.is_first()
    tracker = tracking.open_tracker(config.log_folder, config.logging.writer_type, is_first, folder, start)
    tracking.log_beginning(tracker, record, plan.pictures)
    speed, summary = tracking.Speed(batches.pictures_per_update, start), tracking.Summary(plan.steps, start)
    drawing, classes = config.draw_settings("picture"), [each.class_prompt for each in concepts if each.class_prompt]
    validation = Validation(family, drawing, config.logging, folder, tracker, measures, classes)
    report = Report(folder, record, concepts, enabled=is_first)
    bar = console.progress_bar(total=plan.steps, initial=start, desc="Training")

    def go_through(update: int, share: Share) -> dict[str, Tensor]:
        """Go forward and backward through a share of an update's micro-batches."""
        losses: dict[str, Tensor] = {}
        accumulation = config.optimizer.gradient_accumulation_steps
        for micro in range(accumulation):
            batch = batches.micro_batch(update, micro).part(share)
            family.adapters.choose_dropout(batch)  # nothing without a LoRA
            clean, of_base = encodings.latents(batch), encodings.conditioning(batch, of_base=True) if reference else {}
            if reference:
                with updates.precision():
                    clean = reference.draft(clean, batch, of_base, seed)
            noise, t = diffusion.noise(seed, batch.keys, clean.shape[1:]), diffusion.sample_t(seed, batch.keys)
            noisy = diffusion.add_noise(clean, diffusion.perturbed(noise, seed, batch.keys), t)
            target = diffusion.target(clean, noise, t)
            noisy.stop_gradient = not scope.needs_input_gradient(config.model.layers)
            with updates.precision():
                if reference:
                    target = reference.replace(target, batch, noisy, t, of_base)
                prediction = family.predict(noisy, t, encodings.conditioning(batch))
            prediction, target = family.scaled_for_loss(prediction), family.scaled_for_loss(target)
            errors = loss.example_errors(prediction, target, encodings.masks(batch), config.objective.huber)
            parts = loss.dreambooth_loss(errors, batch, diffusion.weight(t), config.objective.prior_loss_weight)
            updates.backward(parts["loss"] / accumulation)
            for name, part in parts.items():
                losses[name] = losses.get(name, 0) + part.detach() / accumulation
        return losses

    team = Team(min(split.workers, batches.pictures_at_once), updates.parameters, go_through)
    with console.StopRequest() as stop, closing(tracker), closing(team), bar:
        # Measure the base model, or what a stop has left out
        done = start
        judges.check_base(config.choosing, best.lacks(0) and done > 0)
        if measures.held_out and validation.is_due(done) and best.lacks(done):
            with average.in_place():
                best.add(done, validation.run(done, best.history))

        while done < plan.steps and not best.is_over:
            losses = team.go_through(done)

            # Agree with the other processes on the losses, and on whether to stop
            means = processes.mean({**losses, "stop": stop.signal or 0})
            is_stop_requested = means.pop("stop") > 0
            endings.check_finite(math.isfinite(means["loss"]), "loss", done + 1, updates.rate, saved.last)

            # Update the weights; an update that overflowed in half precision is repeated at a smaller scale
            rate, norm = updates.rate, updates.gather_gradients()
            if not updates.step(norm):
                endings.check_finite(not updates.is_stuck, "gradient", done + 1, rate, saved.last)
                continue
            average.add()
            done += 1
            summary.add(means, done)
            bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
            bar.update()

            # Draw and measure on the way, log and save; enough measures without a better score end the run
            if validation.is_due(done) and done < plan.steps and not is_stop_requested:
                with average.in_place():
                    best.add(done, validation.run(done, best.history))
                report.write(done)
            ending = done == plan.steps or best.is_over
            stopping = is_stop_requested and not ending
            if ending or done % config.logging.logging_steps == 0:
                measured = {} if norm is None else {"gradient_norm": norm}
                tracker.add_scalars({**means, "learning_rate": rate, **measured, **speed.measure(done)}, done)
            saving = stopping or done % config.saving.save_steps == 0
            if saving or ending:
                endings.check_finite(updates.has_finite_weights(), "weights", done, rate, saved.last)
            if saving:
                saved.save(done)
            if stopping:
                report.write(done, "stopped")
                endings.end_early(done, saved.last, stop.signal)

        # Draw, and save the result; should that fail, a checkpoint keeps the weights
        saved.save_last(done)
        with saved.rescue(done), average.in_place():
            if best.lacks(done):
                best.add(done, validation.run(done, best.history, is_last=True))
            with best.in_place():
                ended: Record = {**record, "steps": done, **best.record}
                card = model_card.make_card(config, done, world, family.facts, best.record.get("saved_step"))
                output_folder.save_result(family, config.saving, config.result, ended, card)
                report.write(done, "finished", ended)
    endings.describe_result(config.saving, config.result, concepts[0].prompt, str(summary), family.facts, best.in_words)


if __name__ == "__main__":
    console.run_command(main)
