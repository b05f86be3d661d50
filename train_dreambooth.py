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

from dreambooth import checkpoint, command, data, dist, models, output, plan, prior, stack
from dreambooth.flags import read_config

MOST_OVERFLOWS = 30  # in a row; the scale halves each time, so this many can't be its fault


def main(argv):
    # Check all input before the libraries, which take seconds, are loaded
    config, todo = plan.make(read_config(argv, __doc__))

    # Load the libraries, meet the other processes, agree on a seed
    stack.load(config.verbose)
    dist.start()
    plan.check_same(todo)
    if config.seed is None:
        config = dataclasses.replace(config, seed=dist.from_first(secrets.randbelow(2**31)))
        todo = dataclasses.replace(todo, course={**todo.course, "seed": config.seed})

    # Load the model, and say what will be done with it
    family = models.load_model(
        config.pretrained_model_name_or_path,
        revision=config.revision,
        tokenizer_name=config.tokenizer_name,
        train_text_encoder=config.train_text_encoder,
    )
    family.check(config)
    if config.lora_rank:
        from dreambooth import lora

        family.adapters = lora.put_on(family.learners(), config)
    class_pictures, missing = prior.look(config)
    plan.describe(config, todo, family, missing)
    if config.dry_run:
        return dist.say("dry run   all is in order, and nothing was written")

    # Draw what the model knows of the class, before it learns anything else
    if missing:
        class_pictures = prior.draw_missing(family, config, missing)
    todo = plan.check_class_pictures(config, todo, class_pictures)
    subject = data.Concept(config.instance_prompt, todo.pictures, config.class_prompt, class_pictures)
    train(config, todo, family, [subject])


def train(config, todo, family, concepts):
    from dreambooth import latents, lora, loss, optim, tracking, validation

    # Encode pictures and prompts once, and free what is not needed any more
    examples = data.Examples(concepts, config, dist.rank(), dist.world_size())
    encode = latents.EncodedOnce if config.cache_latents else latents.EncodedEachStep
    pictures, prompts = encode(family, examples), latents.Prompts(family, examples)
    family.forget_encoders(vae=config.cache_latents)

    # Make the optimizer over what learns; a resumed run takes weights and state from its checkpoint
    family.prepare_training(config.gradient_checkpointing)
    updates = optim.Updates(config, family.trained(), todo.steps, dist.world_size())
    start, last = 0, None
    if todo.resumed:
        last, state = todo.resumed
        updates.restore(checkpoint.load(last, family.trained()), state["optimizer"])
        start = state["step"]

    # Open the log
    record = output.arguments(config, todo.steps, dist.world_size(), concepts)
    tracker = tracking.open_tracker(output.log_folder(config), config.writer_type, wanted=dist.is_first())
    tracker.text("arguments", output.as_text(record))
    speed = tracking.Speed(config.global_batch(dist.world_size()) * (1 + config.with_prior_preservation), start)
    bar = dist.bar(total=todo.steps, initial=start, desc="Training")
    prior_weight = config.prior_loss_weight if config.with_prior_preservation else None

    with checkpoint.StopRequest() as stop, closing(tracker), bar:
        done, overflows = start, 0
        while done < todo.steps:
            # Go forward and backward through the update's micro-batches
            losses = {}
            for micro in range(config.gradient_accumulation_steps):
                batch = examples.micro_batch(done, micro)
                if config.lora_dropout:
                    lora.drop(family.adapters, config.seed, batch.places, len(examples.prompts))
                clean, noise, timesteps, noisy = latents.noised(family, pictures.take(batch), batch, config.seed)
                with updates.precision():
                    prediction = family.predict(noisy, timesteps, prompts.take(batch))
                wanted = loss.target(family.schedule, clean, noise, timesteps)
                parts = loss.dreambooth_loss(family.picture_part(prediction), family.picture_part(wanted), prior_weight)
                updates.backward(parts["loss"] / config.gradient_accumulation_steps)
                for name, part in parts.items():
                    losses[name] = losses.get(name, 0) + part.detach() / config.gradient_accumulation_steps

            # Agree with the other processes on the losses, and on whether to stop
            means = dist.mean({**losses, "stop": stop.signal or 0})
            asked_to_stop = means.pop("stop") > 0
            if not math.isfinite(means["loss"]):
                raise command.Stopped(plan.not_finite("loss", done + 1, updates.rate, last), code=1)

            # Update what learns; an update that overflowed in half precision is done again at a smaller scale
            ending = done + 1 == todo.steps
            stopping = asked_to_stop and not ending
            logging = ending or (done + 1) % config.logging_steps == 0
            rate, norm = updates.rate, updates.gather()
            if updates.apply(norm):
                done, overflows = done + 1, 0
            elif (overflows := overflows + 1) == MOST_OVERFLOWS:
                raise command.Stopped(plan.not_finite("gradient", done + 1, rate, last), code=1)
            else:
                continue
            bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
            bar.update()

            # Log, save and draw on the way
            if logging:
                found = {} if norm is None else {"gradient_norm": norm}
                tracker.scalars({**means, "learning_rate": rate, **found, **speed.measure(done)}, done)
            saving = stopping or done % config.save_steps == 0
            if (saving or ending) and not updates.finite():
                raise command.Stopped(plan.not_finite("weights", done, rate, last), code=1)
            if saving:
                last = checkpoint.save(config, done, family.trained(), updates, todo.course, record)
            if stopping:
                raise command.Stopped(plan.stopped(done, last), code=128 + (stop.signal or signal.SIGTERM))
            if validation.due(config, done) and not ending:
                validation.draw(config, family, tracker, done)

        # Draw, and assemble the pipeline; should that fail, what was learned is kept in a checkpoint
        try:
            if config.validation_prompt:
                validation.draw(config, family, tracker, done)
            if dist.is_first():
                command_line = plan.draw_command(config)
                card = output.card(config, todo.steps, dist.world_size(), command_line, family.pipeline_class)
                output.save_result(family, config, record, card)
        except Exception:
            last = checkpoint.save(config, done, family.trained(), updates, todo.course, record)
            dist.warn(f"the pipeline could not be finished, but {last} holds what was learned")
            raise
    what = "pipeline " if config.saves_pipeline else "LoRA     "
    dist.say(f"{what} {config.output_dir}; to draw with it: {plan.draw_command(config, *command.of('infer.py'))}")


if __name__ == "__main__":
    command.run(main)
