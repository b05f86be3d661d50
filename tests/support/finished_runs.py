"""The folder of a run without its weights: record, figures and drawings, as a run leaves them."""

import json

from PIL import Image

from dreambooth.config.config import Config
from dreambooth.files import atomic, records
from dreambooth.run.choosing import validation
from dreambooth.run.report.progress import Progress
from support.pictures import draw_pictures

PROMPT = "a photo of sks dog"
# what somebody may write into a prompt
HOSTILE = (
    '<script>document.title = "taken"</script>',
    '"><img src=x onerror="document.title=1">',
    "'; alert(1); //",
    "{{ 7 * 7 }} {% raw %}",
    "\u202eright to left\u202c שלום",
    "word " * 2000,
    "w" * 10_000,
    "一只 sks 狗",
)
INDEX = {"_class_name": "StableDiffusionPipeline"}


def make_run(
    folder,
    pictures,
    steps=(2, 4),
    prompts=(PROMPT + " on the beach",),
    count=2,
    of_class=(),
    figures=None,
    size=32,
    **flags,
):
    """Make the folder of a run that drew at some steps, and return its record; `figures` are those of validations."""
    if not pictures.is_dir():
        draw_pictures(pictures, 3)
    settings = {
        "pretrained_model_name_or_path": "./my_model",
        "instance_data_dir": str(pictures),
        "instance_prompt": PROMPT,
        "output_dir": str(folder),
        "resolution": 32,
        "seed": 0,
        "max_train_steps": steps[-1],
        "validation_prompt": list(prompts) or None,
        **flags,
    }
    made = Config.from_flat(**settings)
    record = {
        "flags": json.loads(json.dumps(made.flat())),
        "base_model": "./my_model",
        "base_folder": None,
        "base_weights": "0",
        "base_index": INDEX,
        "sizes": [[32, 32]],
        "steps": steps[-1],
        "processes": 1,
        "machine": {"processor": "a processor", "mkl": "AVX2", "workers": 1, "threads": 2},
        "concepts": [{"prompt": PROMPT, "pictures": [], "class_prompt": made.concepts.subjects[0].class_prompt,
                      "class_pictures": []}],
        "versions": {"python": "3.11"},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    written = Progress(folder, 0)
    for step in range(1, steps[-1] + 1):
        written.add(step, "training", {"loss": 1 / step, "learning_rate": 5e-6})
    for step in steps:
        groups = [[Image.effect_noise((size, size), 40 + step + 9 * k) for k in range(count)] for _ in prompts]
        validation.save_samples(folder, step, prompts, groups, 0)
        if of_class:
            groups = [[Image.new("RGB", (size, size), (step * 9, 0, 0))] * count for _ in of_class]
            validation.save_samples(folder, step, of_class, groups, 0, "class-")
        written.add(step, "validation", (figures or {}).get(step, {}))
    atomic.write_json(folder / records.RESULT, record)
    return record
