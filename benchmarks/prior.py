"""The time of a class picture over the plain pipeline's, which draws with its own scheduler in 50 steps; and, for the
embedded model, whether the pictures are as good: CLIP-T and DIV by its own CLIP.

    python -m benchmarks.prior
"""

import time

from benchmarks import subjects
from dreambooth.config.parser import read_config
from dreambooth.drawing import measures, sampling
from dreambooth.models import loading
from dreambooth.system import console, libraries

PROMPT = "a photo of a {}"
CLASSES = ("dog", "cat", "car", "house")
PLAIN_STEPS = 50


def main(argv):
    parser = subjects.parser("prior", __doc__)
    parser.add_argument("--pictures", type=int, metavar="N", help="for each of four classes (default: 24; full 1)")
    parser.add_argument("--prior_scheduler", metavar="TEXT", help="as for train_dreambooth.py (default: its default)")
    parser.add_argument(
        "--prior_inference_steps", metavar="N", help="as for train_dreambooth.py (default: its default)"
    )
    arguments = parser.parse_args(argv)
    folder, size = subjects.folder_of(arguments.model), subjects.size_of(arguments.model)
    count = arguments.pictures or (1 if arguments.model == "full" else 24)
    solver = [f"--{name}={value}" for name, value in vars(arguments).items() if name.startswith("prior_") and value]
    config = read_config(subjects.run_flags(folder, "unused", size, 1, 1, *solver), "")
    libraries.load()
    plain, fast = loading.load_pipeline(str(folder)), loading.load_pipeline(str(folder))
    times, pictures = {"plain": [], "fast": []}, {"plain": {}, "fast": {}}
    for name in CLASSES:
        wanted = [(PROMPT.format(name), number) for number in range(count)]
        ways = {
            "plain": sampling.draw(
                plain, wanted, seed=0, purpose="class picture", height=size, width=size, steps=PLAIN_STEPS,
                guidance=sampling.GUIDANCE, batch_size=1,
            ),
            "fast": sampling.draw_for_run(fast, wanted, config, "class picture"),
        }  # fmt: skip
        for _ in wanted:
            for way, drawing in ways.items():
                begun = time.perf_counter()
                pictures[way].setdefault(name, []).append(next(drawing))
                times[way].append(time.perf_counter() - begun)
    ratio = subjects.median([fast / plain for fast, plain in zip(times["fast"], times["plain"])])
    rows = [
        [label, f"{subjects.median(times[way]):.3f}", number, *quality(pictures[way], arguments.model)]
        for way, label, number in (
            ("plain", f"{type(plain.scheduler).__name__}, {PLAIN_STEPS} steps", "1.00"),
            (
                "fast",
                f"--prior_scheduler {config.drawing.prior_scheduler}, {config.drawing.prior_inference_steps} steps",
                f"{ratio:.2f}",
            ),
        )
    ]
    print(subjects.table(["", "seconds a picture", "ratio", "CLIP-T", "DIV"], rows))


def quality(groups, model):
    """(CLIP-T, DIV) by the embedded CLIP, which knows the embedded model's world alone."""
    if model != "mini":
        return "", ""
    from dreambooth.drawing.clip import Clip
    from miniworld import paths

    clip = Clip(str(paths.CLIP), flag="CLIP")
    groups = {name: clip.encode_pictures(pictures) for name, pictures in groups.items()}
    fits = [
        measures.mean_cosine(vectors, clip.encode_prompts([PROMPT.format(name)])) for name, vectors in groups.items()
    ]
    return f"{measures.mean_of_known(fits):.3f}", f"{measures.diversity(groups.values()):.3f}"


if __name__ == "__main__":
    console.run_command(main)
