"""Pictures of the validation prompts, drawn with the model as it is, for the log and the output folder."""

from dreambooth.drawing import sampling
from dreambooth.run import output_folder
from dreambooth.system import processes


def due(config, step):
    return (
        bool(config.logging.validation_prompt and config.logging.validation_steps)
        and step % config.logging.validation_steps == 0
    )


def draw(config, family, tracker, step):
    """Draw on the first process while the others wait. The pictures' noise is the same at every step, so that they
    can be compared."""
    if processes.is_first():
        wanted = [
            (prompt, number)
            for prompt in config.logging.validation_prompt
            for number in range(config.logging.validation_count)
        ]
        pictures = list(sampling.draw_for_run(family.pipeline(), wanted, config, "picture"))
        output_folder.save_samples(config, step, pictures)
        for number, prompt in enumerate(config.logging.validation_prompt):
            first = number * config.logging.validation_count
            tracker.add_pictures(f"{number}_{prompt}", pictures[first : first + config.logging.validation_count], step)
    processes.wait()
