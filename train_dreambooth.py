"""DreamBooth: teach a text-to-image model one subject from three to five pictures.

    python train_dreambooth.py --pretrained_model_name_or_path CompVis/stable-diffusion-v1-4 \\
        --instance_data_dir ./dream_image --instance_prompt "a photo of sks dog" --output_dir ./dream_outputs \\
        --train_batch_size 1 --learning_rate 5e-6 --max_train_steps 400

with class pictures, so that other dogs stay dogs:

    ... --with_prior_preservation --class_data_dir ./class_images --class_prompt "a photo of a dog"

a LoRA, a file of some megabytes beside the model, which stays as it is:

    ... --lora_rank 4 --learning_rate 1e-4

on four cards:

    python -m paddle.distributed.launch --gpus 0,1,2,3 train_dreambooth.py ...
"""

import dataclasses
import math
import secrets
import signal
from contextlib import closing

from dreambooth.config.parser import read_config
from dreambooth.data.batches import Batches
from dreambooth.data.concepts import Concept
from dreambooth.drawing import prior_pictures
from dreambooth.files import atomic, weight_files
from dreambooth.models import loading
from dreambooth.run import checkpoints, model_card, output_folder, planning
from dreambooth.system import console, disk, libraries, processes
from dreambooth.system.console import StopRequest
from dreambooth.system.errors import Stopped

MOST_OVERFLOWS = 30  # in a row; the scale halves each time, so this many can't be its fault


def main(argv):
    # Check all input before the libraries, which take seconds, are loaded
    config, todo = planning.make(read_config(argv, __doc__))

    # Load the libraries, meet the other processes, agree on a seed
    libraries.load(weight_files.READERS, config.run.verbose)
    processes.start()
    planning.check_same(todo)
    if config.run.seed is None:
        config = config.with_seed(processes.broadcast(secrets.randbelow(2**31)))
        todo = dataclasses.replace(todo, course={**todo.course, "seed": config.run.seed})

    # Load the model, and say what will be done with it
    model = config.model
    source = loading.Source(model.pretrained_model_name_or_path, model.revision, model.tokenizer_name)
    family = loading.load_family(source, train_text_encoders=model.train_text_encoder)
    family.check_training(config.pictures.size, config.memory.gradient_checkpointing)
    from dreambooth.training import diffusion as diffusions
    from dreambooth.training.adapters import Adapters

    diffusion = diffusions.diffusion_for(family.pipeline.scheduler)
    family.adapters = Adapters(family.learners(), family.facts.denoiser, config.lora, config.run.seed)
    class_pictures, missing = prior_pictures.scan(config.concepts, source.name, todo.class_hashes)
    planning.describe(config, todo, family, missing)
    if config.run.dry_run:
        return console.print_message("dry run   all is in order, and nothing was written")

    # Draw what the model knows of the class, before it learns anything else
    if missing:
        drawing = config.draw_settings("class picture")
        class_pictures = prior_pictures.draw_missing(family, drawing, config.concepts, missing)
    todo = planning.check_class_pictures(config, todo, class_pictures)
    subject = Concept(config.concepts.instance_prompt, todo.pictures, config.concepts.class_prompt, class_pictures)
    with disk.explained(lambda: checkpoints.what_is_whole(config.saving.output_dir)):
        train(config, todo, family, diffusion, [subject])


def train(config, todo, family, diffusion, concepts):
    from dreambooth.run import tracking, validation
    from dreambooth.training import loss
    from dreambooth.training.encodings import Encodings
    from dreambooth.training.updates import Updates

    # Encode pictures and prompts once, and free the encoders that are not needed any more
    seed = config.run.seed
    batches = Batches(concepts, config.optimizer, config.pictures, seed, processes.rank(), processes.world_size())
    encodings = Encodings(family, batches, config.memory, seed)
    family.free_encoders(pictures=config.memory.cache_latents)

    # Make the optimizer over what learns; a resumed run takes weights and state from its checkpoint
    family.prepare_training(config.memory.gradient_checkpointing)
    updates = Updates(
        config.optimizer,
        family.trained(),
        config.rates(processes.world_size()),
        todo.steps,
        config.memory.mixed_precision,
    )
    start, last = 0, None
    if todo.resumed:
        checkpoints.load(todo.resumed, family.trained(), {"optimizer": updates})
        start, last = todo.resumed.state["step"], todo.resumed.folder

    # Open the log
    record = output_folder.arguments(config, todo.steps, processes.world_size(), concepts)
    tracker = tracking.open_tracker(
        output_folder.log_folder(config), config.logging.writer_type, enabled=processes.is_first()
    )
    tracker.add_text("arguments", atomic.as_json(record))
    speed = tracking.Speed(
        config.optimizer.global_batch(processes.world_size()) * (1 + config.concepts.with_prior_preservation), start
    )
    bar = console.progress_bar(total=todo.steps, initial=start, desc="Training")

    def save_checkpoint(step):
        return checkpoints.save(
            config.saving.output_dir,
            step,
            family.trained(),
            {"optimizer": updates},
            todo.course,
            record,
            config.saving.checkpoints_total_limit,
        )

    with StopRequest() as stop, closing(tracker), bar:
        done, overflows = start, 0
        while done < todo.steps:
            # Go forward and backward through the update's micro-batches
            losses = {}
            for micro in range(config.optimizer.gradient_accumulation_steps):
                batch = batches.micro_batch(done, micro)
                family.adapters.choose_dropout(batch)  # nothing without a LoRA
                clean = encodings.latents(batch)
                noise = diffusion.noise(seed, batch.keys, clean.shape[1:])
                t = diffusion.sample_t(seed, batch.keys)
                noisy = diffusion.add_noise(clean, noise, t)
                with updates.precision():
                    prediction = family.predict(noisy, t, encodings.conditioning(batch))
                target = diffusion.target(clean, noise, t)
                errors = loss.example_errors(family.learned_part(prediction), family.learned_part(target))
                parts = loss.dreambooth_loss(
                    errors, batch.prior, diffusion.weight(t), config.objective.prior_loss_weight
                )
                updates.backward(parts["loss"] / config.optimizer.gradient_accumulation_steps)
                for name, part in parts.items():
                    losses[name] = losses.get(name, 0) + part.detach() / config.optimizer.gradient_accumulation_steps

            # Agree with the other processes on the losses, and on whether to stop
            means = processes.mean({**losses, "stop": stop.signal or 0})
            asked_to_stop = means.pop("stop") > 0
            if not math.isfinite(means["loss"]):
                raise Stopped(planning.not_finite("loss", done + 1, updates.rate, last), code=1)

            # Update what learns; an update that overflowed in half precision is done again at a smaller scale
            ending = done + 1 == todo.steps
            stopping = asked_to_stop and not ending
            logging = ending or (done + 1) % config.logging.logging_steps == 0
            rate, norm = updates.rate, updates.gather_gradients()
            if updates.step(norm):
                done, overflows = done + 1, 0
            elif (overflows := overflows + 1) == MOST_OVERFLOWS:
                raise Stopped(planning.not_finite("gradient", done + 1, rate, last), code=1)
            else:
                continue
            bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
            bar.update()

            # Log, save and draw on the way
            if logging:
                found = {} if norm is None else {"gradient_norm": norm}
                tracker.add_scalars({**means, "learning_rate": rate, **found, **speed.measure(done)}, done)
            saving = stopping or done % config.saving.save_steps == 0
            if (saving or ending) and not updates.has_finite_weights():
                raise Stopped(planning.not_finite("weights", done, rate, last), code=1)
            if saving:
                last = save_checkpoint(done)
            if stopping:
                raise Stopped(planning.stopped(done, last), code=128 + (stop.signal or signal.SIGTERM))
            if validation.is_due(config.logging, done) and not ending:
                validation.draw(config, family, tracker, done)

        # Draw, and assemble the pipeline; should that fail, what was learned is kept in a checkpoint
        try:
            if config.logging.validation_prompt:
                validation.draw(config, family, tracker, done)
            with processes.together():
                if processes.is_first():
                    command_line = planning.draw_command(config)
                    card = model_card.make_card(config, todo.steps, processes.world_size(), command_line, family.facts)
                    output_folder.save_result(family, config, record, card)
        except Exception as error:
            checkpoints.rescue(error, last, done, save_checkpoint)
            raise
    what = "pipeline " if config.lora.saves_pipeline else "LoRA     "
    command_line = planning.draw_command(config, *console.script_command("infer.py"))
    console.print_message(f"{what} {config.saving.output_dir}; to draw with it: {command_line}")


if __name__ == "__main__":
    console.run_command(main)
