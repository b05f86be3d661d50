"""Measure a fine-tuned model against its base: is the subject learned, is the prompt followed, is the class kept.

    python -m dreambooth.metrics --model_path ./dream_outputs --base_model_path ./my_model \\
        --subject_data_dir ./more_pictures --clip_model_path ./clip --class_prompt "a photo of a dog" \\
        --prompt "a photo of sks dog in a bucket" "a photo of sks dog at night" --identifier sks --sheet sheet.png

The measures are those of the DreamBooth paper (Ruiz et al., 2023), all with the CLIP model that is named:

    CLIP-I  subject fidelity: mean cosine of the drawn pictures and the subject's own
    CLIP-T  prompt fidelity: mean cosine of the drawn pictures and their prompt
    PRES    how much pictures of the plain class prompt resemble the subject: a class that is kept stays near the base
    DIV     diversity: mean distance (1 - cosine) of two pictures of the same prompt

The subject's pictures must not be those that the model was trained on.
"""

from pathlib import Path

import numpy as np

from dreambooth.config.commands import DrawSettings
from dreambooth.config.parser import Parser
from dreambooth.data import picture_files
from dreambooth.drawing import measures, sampling, sheets
from dreambooth.drawing.clip import Clip
from dreambooth.drawing.measures import Request
from dreambooth.files import atomic, weight_files
from dreambooth.models import loading, pipeline_folder, schedulers
from dreambooth.system import console, libraries
from dreambooth.system.errors import BadInput

UNMEASURED = ("json", "sheet", "pictures_dir", "verbose")  # flags that change no figure


def read_arguments(argv):
    parser = Parser(prog="python -m dreambooth.metrics", description=__doc__)
    add = parser.add_argument
    add("--model_path", required=True, metavar="TEXT", help="the fine-tuned pipeline's folder")
    add("--base_model_path", required=True, metavar="TEXT", help="the pipeline that it was made from")
    add(
        "--subject_data_dir", required=True, metavar="TEXT", help="other pictures of the subject than it was trained on"
    )
    add("--clip_model_path", required=True, metavar="TEXT", help="the CLIP model to measure with: a folder, or a name")
    add("--prompt", nargs="+", action="extend", default=[], metavar="TEXT", help="prompts of the subject")
    add(
        "--prompts_file",
        metavar="FILE",
        help="a prompt in each line; behind a tab, the names of the subject's pictures in that scene (with * and ?)",
    )
    add(
        "--class_prompt",
        metavar="TEXT",
        help='the prompt of the class, "a photo of a dog"; without it there is no PRES',
    )
    add("--identifier", metavar="TEXT", help="the rare word, which is left out of what CLIP reads")
    add("--num_images", type=int, default=4, metavar="N", help="pictures for each prompt (default: 4)")
    add("--num_class_images", type=int, default=16, metavar="N", help="pictures of the class prompt (default: 16)")
    add("--num_inference_steps", type=int, default=50, metavar="N", help="denoising steps (default: 50)")
    add("--guidance_scale", type=float, default=7.5, metavar="X", help="weight of the prompt (default: 7.5)")
    add("--scheduler", choices=schedulers.SCHEDULERS, help="default: the model's own")
    add("--seed", type=int, default=0, metavar="N", help="both models start from its noise (default: 0)")
    add("--batch_size", type=int, default=4, metavar="N", help="pictures drawn at once on a card (default: 4)")
    add("--json", metavar="FILE", help="write the figures there; - for the terminal, instead of the table")
    add("--sheet", metavar="FILE.png", help="write a contact sheet there: prompts by subject, base and fine-tuned")
    add("--pictures_dir", metavar="TEXT", help="write the fine-tuned model's pictures into this folder")
    add("--verbose", action="store_true", help="show the libraries' own messages too")
    arguments = parser.parse_args(argv)
    check(arguments)
    return arguments


def check(arguments):
    counts = ("num_images", "num_class_images", "num_inference_steps", "batch_size")
    sampling.check_settings(arguments, counts)
    if arguments.class_prompt is not None and not arguments.class_prompt.strip():
        raise BadInput("--class_prompt: it is empty")
    if not arguments.prompt and not arguments.prompts_file:
        raise BadInput("--prompt: give at least one, or --prompts_file")
    if arguments.sheet and Path(arguments.sheet).suffix.lower() != ".png":
        raise BadInput(f"--sheet {arguments.sheet}: must end in .png")
    for name in ("sheet", "json"):
        place = getattr(arguments, name)
        if place and place != "-" and (Path(place).is_dir() or not atomic.can_be_written(Path(place).parent)):
            raise BadInput(f"--{name} {place}: it can't be written there")
    if arguments.pictures_dir and not atomic.can_be_written(Path(arguments.pictures_dir)):
        raise BadInput(f"--pictures_dir {arguments.pictures_dir}: it can't be written there")
    for name in ("model_path", "base_model_path"):
        pipeline_folder.check_model(getattr(arguments, name), flag=f"--{name}")


def read_prompts(arguments, pictures):
    """The prompts with the subject's pictures that each is compared with."""
    everything = list(range(len(pictures)))
    wanted = [Request(prompt, everything) for prompt in arguments.prompt]
    if arguments.prompts_file:
        try:
            lines = Path(arguments.prompts_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--prompts_file {arguments.prompts_file}: it can't be read ({error})") from None
        for line in filter(str.strip, lines):
            prompt, _, names = line.partition("\t")
            if not prompt.strip():
                raise BadInput(f"--prompts_file {arguments.prompts_file}: a prompt is empty")
            own = [index for index in everything if any(pictures[index].path.match(name) for name in names.split())]
            if names.strip() and not own:
                where = f"no picture in {arguments.subject_data_dir} is named {names}"
                raise BadInput(f"--prompts_file {arguments.prompts_file}: {where}")
            wanted.append(Request(prompt.strip(), own or everything))
    if not wanted:
        raise BadInput(f"--prompts_file {arguments.prompts_file}: there is no prompt in it")
    if not all(each.prompt.strip() for each in wanted):
        raise BadInput("--prompt: a prompt is empty")
    return wanted


def main(argv):
    arguments = read_arguments(argv)
    pictures, _ = picture_files.find_pictures(arguments.subject_data_dir, "--subject_data_dir")
    wanted = read_prompts(arguments, pictures)
    libraries.load(weight_files.READERS, arguments.verbose)

    # Look at the subject, and at what CLIP reads
    clip = Clip(arguments.clip_model_path)
    own = [picture_files.open_picture(picture.path) for picture in pictures]
    subject = clip.encode_pictures(own)
    texts = clip.encode_prompts([without(each.prompt, arguments.identifier) for each in wanted])

    # Draw the same with both models, and measure
    results, drawn = {}, {}
    for name, path in (("base", arguments.base_model_path), ("fine-tuned", arguments.model_path)):
        flag = "--model_path" if name == "fine-tuned" else "--base_model_path"
        family = loading.load_family(loading.Source(path), flag)
        drawn[name], of_class = draw(family, wanted, arguments, name)
        rows = [clip.encode_pictures(group) for group in drawn[name]]
        of_class = clip.encode_pictures(of_class) if of_class else np.zeros([0, subject.shape[1]])
        results[name] = measures.measure_model(rows, of_class, subject, wanted, texts)
        del family
    results["subject"] = measures.measure_subject(subject, wanted, texts)

    # Tell
    report = {
        "measures": results,
        "fidelity gained": measures.share_gained(
            *(results[name]["CLIP-I"] for name in ("base", "fine-tuned", "subject"))
        ),
        "settings": {name: value for name, value in vars(arguments).items() if name not in UNMEASURED},
    }
    if arguments.json == "-":
        print(atomic.as_json(report), end="")
    else:
        print(table(report))
    if arguments.json and arguments.json != "-":
        atomic.write_json(Path(arguments.json), report)
    if arguments.sheet:
        columns = {"subject": [[own[index] for index in each.references] for each in wanted], **drawn}
        sheet = sheets.make_contact_sheet([each.prompt for each in wanted], columns, arguments.num_images)
        atomic.write_picture(Path(arguments.sheet), sheet)
    if arguments.pictures_dir:
        save_pictures(drawn["fine-tuned"], arguments.pictures_dir)
    for place in (arguments.json, arguments.pictures_dir, arguments.sheet):
        if place and place != "-" and arguments.json != "-":
            print(place)


def without(prompt, identifier):
    """A prompt as CLIP reads it: a word that says nothing to it is left out."""
    return " ".join(word for word in prompt.split() if word != identifier)


def draw(family, wanted, arguments, name):
    """(pictures of each prompt, pictures of the class prompt), from the same noise for every model."""
    count = arguments.num_images
    asked = [(each.prompt, number) for each in wanted for number in range(count)]
    if arguments.class_prompt:
        asked += [(arguments.class_prompt, number) for number in range(arguments.num_class_images)]
    settings = DrawSettings(
        seed=arguments.seed,
        purpose="picture",
        size=family.default_size,
        steps=arguments.num_inference_steps,
        guidance=arguments.guidance_scale,
        scheduler=arguments.scheduler,
        batch_size=arguments.batch_size,
    )
    pictures = sampling.draw(family, settings, asked)
    pictures = list(console.progress_bar(pictures, total=len(asked), desc=f"Drawing, {name}"))
    groups = [pictures[first : first + count] for first in range(0, count * len(wanted), count)]
    return groups, pictures[count * len(wanted) :]


def save_pictures(groups, folder):
    """Write the pictures of each prompt as PROMPT-K.png, both counted from 0."""
    for prompt, group in enumerate(groups):
        for number, picture in enumerate(group):
            atomic.write_picture(Path(folder) / f"{prompt}-{number}.png", picture)


def table(report):
    """The figures for people."""
    columns = list(report["measures"])
    lines = ["".join(f"{name:>12}" for name in ("", *columns))]
    for measure in measures.MEASURES:
        values = [report["measures"][name][measure] for name in columns]
        lines.append(f"{measure:>12}" + "".join(f"{'-' if value is None else f'{value:.3f}':>12}" for value in values))
    share = report["fidelity gained"]
    if share is not None:
        lines.append(f"CLIP-I has come {share:.0%} of the way from the base to the subject's own pictures")
    return "\n".join(lines)


if __name__ == "__main__":
    console.run_command(main)
