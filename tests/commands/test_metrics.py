"""python -m dreambooth.metrics: its prompts, its bad input, and the whole command on tiny models."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.clips import build_clip
from support.commands import command_line, python, train
from support.pictures import draw_pictures

from dreambooth import metrics
from dreambooth.data import picture_files
from dreambooth.drawing import measures, sampling, sheets
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.files import records
from dreambooth.system.errors import BadInput


def test_the_table_shows_each_measure_of_each_model():
    base = {"CLIP-I": 0.5, "CLIP-T": 0.25, "PRES": None, "DIV": 0.125}
    tuned = {"CLIP-I": 0.75, "CLIP-T": 0.2, "PRES": None, "DIV": -0.0625}
    lines = measures.table({"measures": {"base": base, "fine-tuned": tuned}, "fidelity gained": 0.5}).splitlines()
    legends = [measures.LEGEND[name] for name in measures.MEASURES if name != "DINO"]
    assert [line.split()[:3] for line in lines[:-2]] == [
        ["base", "fine-tuned"],
        ["CLIP-I", "0.500", "0.750"],
        ["CLIP-T", "0.250", "0.200"],
        ["PRES", "-", "-"],
        ["DIV", "0.125", "-0.062"],
    ]
    assert len({line.index(legend) for line, legend in zip(lines[1:-2], legends, strict=True)}) == 1
    assert "50%" in lines[-2] and "Compare these figures with each other: the paper" in lines[-1]
    assert len(measures.table({"measures": {"base": base}, "fidelity gained": None}).splitlines()) == 6


# prompts


@pytest.fixture
def prompts(tmp_path):
    """Read prompts and a file's text, with pictures of these names."""
    for name in ("grass-0.png", "grass-1.png", "snow-0.png", "snow-10.png"):
        draw_pictures(tmp_path / "new", 1)
        (tmp_path / "new/0.png").rename(tmp_path / name)
    (tmp_path / "new").rmdir()

    def read(text=None, *prompts):
        file = None
        if text is not None:
            file = str(tmp_path / "prompts.txt")
            Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
        pictures, _ = picture_files.find_pictures(tmp_path, "--subject_data_dir")
        arguments = SimpleNamespace(prompt=list(prompts), prompts_file=file, subject_data_dir=str(tmp_path))
        requests = metrics.read_requests(arguments, pictures)
        return [(each.prompt, [pictures[index].path.name for index in each.references]) for each in requests]

    return read


EVERYTHING = ["grass-0.png", "grass-1.png", "snow-0.png", "snow-10.png"]


def test_a_prompt_of_the_command_line_is_compared_with_all_pictures(prompts):
    assert prompts(None, "a dog", "a sks dog") == [("a dog", EVERYTHING), ("a sks dog", EVERYTHING)]


def test_a_line_of_the_file_names_its_pictures_behind_a_tab(prompts):
    text = "on the grass\tgrass-*.png\nin the snow\tsnow-?.png\n\n  \nboth\tgrass-1.png snow-10.png\nall\nall too\t\n"
    assert prompts(text) == [
        ("on the grass", ["grass-0.png", "grass-1.png"]),
        ("in the snow", ["snow-0.png"]),
        ("both", ["grass-1.png", "snow-10.png"]),
        ("all", EVERYTHING),
        ("all too", EVERYTHING),
    ]


def test_prompts_of_the_command_line_come_before_those_of_the_file(prompts):
    assert [prompt for prompt, _ in prompts("from the file\r\n在雪地上\r\n", "given")] == [
        "given",
        "from the file",
        "在雪地上",
    ]


@pytest.mark.parametrize(
    "text, named",
    [
        ("on the beach\tbeach-*.png", "--prompts_file .*beach"),
        ("\tgrass-*.png", "--prompts_file"),
        ("", "--prompts_file"),
        ("\n \n", "--prompts_file"),
        (b"\xff\xfe\x00", "--prompts_file .*can't be read"),
    ],
)
def test_a_file_that_says_nothing_useful_is_named(prompts, text, named):
    with pytest.raises(BadInput, match=named):
        prompts(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    arguments = SimpleNamespace(prompt=["a"], prompts_file=str(tmp_path / "none.txt"), subject_data_dir="")
    with pytest.raises(BadInput, match="--prompts_file .*none.txt"):
        metrics.read_requests(arguments, [])


# bad input

FLAGS = {
    "--model_path": "{twin}",
    "--base_model_path": "{twin}",
    "--subject_data_dir": "{pictures}",
    "--clip_model_path": "some/clip",
    "--prompt": "a dog",
}
# what is changed in them, and what is to be named
BAD = [
    ({"--model_path": None}, "--model_path"),
    ({"--base_model_path": None}, "--base_model_path"),
    ({"--subject_data_dir": None}, "--subject_data_dir"),
    ({"--clip_model_path": None}, "--clip_model_path"),
    ({"--prompt": None}, "--prompt"),
    ({"--prompt": " "}, "--prompt"),
    ({"--prompt": None, "--prompts_file": "/nowhere/prompts.txt"}, "--prompts_file /nowhere/prompts.txt"),
    ({"--model_path": "/nowhere"}, "--model_path /nowhere"),
    ({"--clip_model_path": "/nowhere"}, "--clip_model_path /nowhere"),
    ({"--clip_model_path": "./nowhere"}, "--clip_model_path ./nowhere"),
    ({"--clip_model_path": "nowhere"}, "--clip_model_path nowhere"),
    ({"--clip_model_path": "a/b/c"}, "--clip_model_path a/b/c"),
    ({"--clip_model_path": "miniworld/nowhere"}, "--clip_model_path miniworld/nowhere"),
    ({"--base_model_path": "/nowhere"}, "--base_model_path /nowhere"),
    ({"--base_model_path": "{pictures}"}, "--base_model_path"),
    ({"--subject_data_dir": "/nowhere"}, "--subject_data_dir /nowhere"),
    ({"--subject_data_dir": "{empty}"}, "--subject_data_dir"),
    ({"--num_images": "0"}, "--num_images 0"),
    ({"--num_class_images": "0"}, "--num_class_images 0"),
    ({"--num_inference_steps": "0"}, "--num_inference_steps 0"),
    ({"--num_inference_steps": "many"}, "--num_inference_steps"),
    ({"--batch_size": "0"}, "--batch_size 0"),
    ({"--seed": "-1"}, "--seed -1"),
    ({"--guidance_scale": "-1"}, "--guidance_scale -1"),
    ({"--guidance_scale": "nan"}, "--guidance_scale nan"),
    ({"--guidance_scale": "inf"}, "--guidance_scale inf"),
    ({"--scheduler": "unipc"}, "--scheduler"),
    ({"--sheet": "sheet.jpg"}, "--sheet sheet.jpg"),
    ({"--sheet": "{twin}/model_index.json/sheet.png"}, "--sheet"),
    ({"--json": "{pictures}"}, "--json"),
    ({"--json": "{twin}/model_index.json/figures.json"}, "--json"),
    ({"--pictures_dir": "{twin}/model_index.json"}, "--pictures_dir"),
    ({"--prompts": "a"}, "--prompts"),
]
# each line of bad input in one process, which must not load the libraries
LIGHT = """
import json, sys
from dreambooth import metrics
from dreambooth.system.errors import BadInput
for line in json.loads(sys.argv[1]):
    try:
        metrics.main(line)
        print("taken")
    except BadInput as error:
        print(error)
assert not {"paddle", "paddlenlp", "ppdiffusers"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def told(twin, pictures, tmp_path_factory):
    """What is said to each line of BAD."""
    empty = tmp_path_factory.mktemp("empty")
    lines = []
    for changes, _ in BAD:
        given = {name: value for name, value in {**FLAGS, **changes}.items() if value is not None}
        lines.append(
            [part.format(twin=twin, pictures=pictures, empty=empty) for pair in given.items() for part in pair]
        )
    done = python("-c", LIGHT, json.dumps(lines))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("case, named", [(case, named) for case, (_, named) in enumerate(BAD)])
def test_bad_input_is_one_line_that_names_its_flag_and_comes_without_the_libraries(told, case, named):
    assert len(told) == len(BAD)
    assert re.search(rf"{re.escape(named)}(?!\w)", told[case])


def test_the_command_ends_with_two_and_one_line(twin, pictures):
    line = ["--model_path", twin, "--base_model_path", twin, "--subject_data_dir", pictures, "--clip_model_path", "x"]
    done = python("-m", "dreambooth.metrics", *line)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --prompt: give at least one, or --prompts_file\n"


# the whole command


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip") / "small")


@pytest.fixture
def measure(twin, velocity_twin, pictures, clip_folder, capsys):
    """Run the command on two models that draw other pictures; what it prints, line by line."""

    def run(*more, model=velocity_twin, prompts=("a photo of sks dog", "sks dog at night")):
        line = ["--model_path", model, "--base_model_path", twin, "--subject_data_dir", pictures]
        line += ["--clip_model_path", clip_folder, "--num_images", 2, "--num_inference_steps", 2]
        line += ["--prompt", *prompts] if prompts else []
        metrics.main([str(each) for each in (*line, *more)])
        return capsys.readouterr().out

    return run


def shown(path):
    return picture_files.open_picture(Path(path))


def test_a_table_a_file_a_sheet_and_the_pictures(measure, pictures, clip_folder, twin, velocity_twin, tmp_path):
    file, sheet, folder = tmp_path / "new/figures.json", tmp_path / "sheets/sheet.png", tmp_path / "pictures"
    out = measure(
        *("--class_prompt", "a photo of a dog", "--num_class_images", 3, "--identifier", "sks", "--seed", 5),
        *("--json", file, "--sheet", sheet, "--pictures_dir", folder),
    ).splitlines()
    report = json.loads(file.read_text(encoding="utf-8"))
    found = report["measures"]

    # The table
    assert out[0].split() == ["base", "fine-tuned", "subject"]
    assert measures.MEASURES[0] == "DINO"  # of which there is none
    for line, measure_name in zip(out[1:5], measures.MEASURES[1:], strict=True):
        figures = [f"{found[name][measure_name]:.3f}" for name in out[0].split()]
        assert line.split() == [measure_name, *figures, *measures.LEGEND[measure_name].split()]
    assert f"{report['fidelity gained']:.0%}" in out[5]
    assert out[6].startswith("Compare these figures with each other")
    assert out[7:] == [f"figures        {file}", f"pictures       {folder}", f"contact sheet  {sheet}"]

    on_sheet = Image.open(sheet).text
    assert on_sheet["prompt"].startswith("a photo of sks dog | sks dog at night | ") and on_sheet["seed"] == "5"
    drawn_text = Image.open(folder / "1-0.png").text
    assert drawn_text["prompt"] == "sks dog at night" and drawn_text["seed"] == "5" and drawn_text["picture"] == "0"

    # The figures are those of the pictures
    names = [f"{prompt}-{number}.png" for prompt in range(2) for number in range(2)]
    assert sorted(path.name for path in folder.iterdir()) == names
    clip = Clip(str(clip_folder))
    drawn = [
        clip.encode_pictures([shown(folder / f"{prompt}-{number}.png") for number in range(2)]) for prompt in range(2)
    ]
    subject = clip.encode_pictures([shown(pictures / f"{number}.png") for number in range(5)])
    texts = clip.encode_prompts(["a photo of dog", "dog at night"])  # without the identifier
    tuned, own = found["fine-tuned"], found["subject"]
    assert tuned["CLIP-I"] == pytest.approx(np.mean([(rows @ subject.T).mean() for rows in drawn]), abs=1e-4)
    assert tuned["CLIP-T"] == pytest.approx(np.mean([rows @ text for rows, text in zip(drawn, texts)]), abs=1e-4)
    assert tuned["DIV"] == pytest.approx(np.mean([1 - rows[0] @ rows[1] for rows in drawn]), abs=1e-4)
    pairs = (subject @ subject.T)[np.triu_indices(5, 1)]
    assert own["CLIP-I"] == own["PRES"] == pytest.approx(pairs.mean(), abs=1e-4)
    assert own["CLIP-T"] == pytest.approx((subject @ texts.T).mean(), abs=1e-4)
    assert -1 <= tuned["PRES"] <= 1 and found["base"] != tuned
    way = (tuned["CLIP-I"] - found["base"]["CLIP-I"]) / (own["CLIP-I"] - found["base"]["CLIP-I"])
    assert report["fidelity gained"] == pytest.approx(way)

    # The settings that they depend on
    settings = report["settings"]
    assert settings["model_path"] == str(velocity_twin) and settings["base_model_path"] == str(twin)
    assert settings["seed"] == 5 and settings["identifier"] == "sks" and settings["num_inference_steps"] == 2
    assert settings["class_prompt"] == "a photo of a dog" and settings["num_class_images"] == 3
    assert not {"json", "sheet", "pictures_dir", "verbose"} & settings.keys()

    # The sheet: for each of two prompts two pictures of the subject, of the base and of the fine-tuned model; a row of
    # the class prompt
    whole = np.asarray(shown(sheet))
    side, gap, text = sheets.SMALLEST, sheets.TEXT_HEIGHT // 2, sheets.TEXT_HEIGHT
    assert whole.shape[0] == text + 3 * (text + side + gap) and whole.shape[1] >= 3 * (2 * side + 2 * gap)

    def place(column, row, number):
        left, top = column * (2 * side + 2 * gap) + gap + number * side, text + row * (text + side + gap) + text
        return whole[top : top + side, left : left + side]

    def large(picture):
        return np.asarray(picture.resize((side, side), Image.LANCZOS))

    assert (place(0, 2, 0) == 255).all() and place(1, 2, 0).std() > 5 and place(2, 2, 1).std() > 5
    for row in range(2):
        for number in range(2):
            assert np.array_equal(place(0, row, number), large(shown(pictures / f"{number}.png")))
            assert np.array_equal(place(2, row, number), large(shown(folder / f"{row}-{number}.png")))
            assert place(1, row, number).std() > 5
            assert not np.array_equal(place(1, row, number), place(2, row, number))
    assert (whole[2 * text : 2 * text + side, 2 * side + gap : 2 * side + 3 * gap] == 255).all()  # no third picture
    above = whole[text : 2 * text]
    assert (above < 128).any() and (whole[:text] < 128).any()  # the prompt, and the names of the columns


def test_the_pictures_are_those_that_infer_draws(measure, velocity_twin, tmp_path):
    import infer

    measure("--seed", 3, "--pictures_dir", tmp_path / "measured", "--scheduler", "euler", prompts=["a dog"])
    line = ["--model_path", velocity_twin, "--prompt", "a dog", "--num_images", 2, "--num_inference_steps", 2]
    line += ["--seed", 3, "--scheduler", "euler", "--output_dir", tmp_path / "drawn"]
    infer.main([str(each) for each in line])
    drawn = sorted((tmp_path / "drawn").glob("*.png"))
    assert len(drawn) == 2
    for number, path in enumerate(drawn):
        assert np.array_equal(np.asarray(shown(path)), np.asarray(shown(tmp_path / f"measured/0-{number}.png")))


def test_the_same_model_twice_has_the_same_figures_and_gained_nothing(measure, twin):
    line = ["--class_prompt", "a dog", "--num_class_images", 2]
    report = json.loads(measure("--json", "-", *line, model=twin, prompts=["a dog"]))
    base, tuned, subject = (report["measures"][name] for name in ("base", "fine-tuned", "subject"))
    assert base == tuned != subject and report["fidelity gained"] == 0
    # the class prompt is the prompt here, and its pictures start from the same noise
    assert tuned["PRES"] == pytest.approx(tuned["CLIP-I"], abs=1e-5)


@pytest.mark.parametrize("flag", ["--model_path", "--base_model_path"])
def test_a_model_that_enlarges_is_refused_before_it_is_loaded(measure, upscaler_twin, flag):
    with pytest.raises(BadInput, match=f"{flag} .*: it is a model of StableDiffusionUpscalePipeline, which enlarges"):
        measure(flag, upscaler_twin)


@pytest.mark.parametrize("name", ["xl_twin", "sd3_twin", "inpainting_twin", "pixels_twin"])
def test_models_of_other_families_are_measured(measure, pictures, request, tmp_path, capsys, name):
    """A run of one update draws other pictures than its base, and so has other figures."""
    base, out, folder = request.getfixturevalue(name), tmp_path / "out", tmp_path / "pictures"
    size = 16 if name == "pixels_twin" else 32
    train(command_line(base, pictures, out, max_train_steps=1, learning_rate=1e-2, resolution=size))
    capsys.readouterr()
    line = ["--base_model_path", base, "--class_prompt", "a dog", "--num_class_images", 2, "--pictures_dir", folder]
    found = json.loads(measure("--json", "-", *line, model=out))["measures"]
    assert len(list(folder.iterdir())) == 4 and shown(folder / "0-0.png").size == (size, size)
    assert all(found["base"][each] != found["fine-tuned"][each] for each in ("CLIP-I", "CLIP-T", "PRES", "DIV"))


def test_json_on_the_terminal_is_nothing_but_json(measure, tmp_path):
    out = measure("--json", "-", "--sheet", tmp_path / "sheet.png", "--pictures_dir", tmp_path / "pictures")
    report = json.loads(out)
    assert set(report["measures"]) == {"base", "fine-tuned", "subject"}
    assert report["measures"]["base"]["PRES"] is None  # no class prompt was given
    assert (tmp_path / "sheet.png").is_file() and len(list((tmp_path / "pictures").iterdir())) == 4


def test_the_identifier_counts_for_what_is_drawn_and_not_for_what_clip_reads(measure, twin, tmp_path):
    figures, drawn = {}, {}
    for name, more in (("with", []), ("without", ["--identifier", "sks"])):
        report = json.loads(measure("--json", "-", "--pictures_dir", tmp_path / name, *more))
        figures[name] = report["measures"]["fine-tuned"]
        drawn[name] = [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]
    assert drawn["with"] == drawn["without"]
    assert figures["with"].pop("CLIP-T") != figures["without"].pop("CLIP-T")
    assert figures["with"] == figures["without"]


def test_a_prompt_of_the_file_is_compared_with_its_own_pictures(measure, pictures, clip_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\t0.png\na dog at night\t[34].png\n", encoding="utf-8")
    line = ["--prompts_file", tmp_path / "prompts.txt", "--json", "-"]
    out = measure(*line, "--pictures_dir", tmp_path / "drawn", "--sheet", tmp_path / "sheet.png", prompts=None)
    found = json.loads(out)["measures"]
    clip = Clip(str(clip_folder))
    drawn = [
        clip.encode_pictures([shown(tmp_path / f"drawn/{prompt}-{number}.png") for number in range(2)])
        for prompt in (0, 1)
    ]
    own = [clip.encode_pictures([shown(pictures / f"{number}.png") for number in group]) for group in ((0,), (3, 4))]
    expected = np.mean([(rows @ each.T).mean() for rows, each in zip(drawn, own)])
    assert found["fine-tuned"]["CLIP-I"] == pytest.approx(expected, abs=1e-4)
    assert found["subject"]["CLIP-I"] == pytest.approx(own[1][0] @ own[1][1], abs=1e-4)
    # the first scene has one picture alone: the place of a second one stays white
    side, left = sheets.SMALLEST, sheets.TEXT_HEIGHT // 2 + sheets.SMALLEST
    cell = np.asarray(shown(tmp_path / "sheet.png"))[2 * sheets.TEXT_HEIGHT :][:side, left : left + side]
    assert (cell == 255).all()


def test_more_steps_than_the_model_has_are_refused_as_infer_does(measure, monkeypatch):
    def draw(*arguments):
        raise AssertionError("it draws")

    monkeypatch.setattr(sampling, "_draw", draw)  # it would take minutes
    with pytest.raises(BadInput, match="--num_inference_steps 1001"):
        measure("--num_inference_steps", 1001, "--num_images", 1, "--scheduler", "ddim", prompts=["a"])


def test_a_folder_that_is_no_clip_is_named(measure, twin):
    with pytest.raises(BadInput, match="--clip_model_path"):
        measure("--clip_model_path", twin)


def test_a_librarys_long_reason_is_cut(clip_folder, monkeypatch):
    from ppdiffusers.transformers import CLIPModel

    def fail(*_, **__):
        raise OSError("why " * 500)

    monkeypatch.setattr(CLIPModel, "from_pretrained", fail)
    with pytest.raises(BadInput, match="can't be loaded as a CLIP model .*why…; --verbose shows it whole") as caught:
        Clip(str(clip_folder))
    assert len(str(caught.value)) < 400


def test_pictures_that_the_model_was_trained_on_are_warned_of(flags, pictures, tmp_path, capsys):
    from support.commands import train

    train(flags())
    files, _ = picture_files.find_pictures(pictures, "--subject_data_dir")
    [warning] = metrics._warnings(records.read(tmp_path / "out"), files)
    assert "trained on 5 of its 5 pictures" in warning
    others, _ = picture_files.find_pictures(draw_pictures(tmp_path / "others", 3, size=(48, 48)), "--subject_data_dir")
    assert list(metrics._warnings(records.read(tmp_path / "out"), others)) == []
    for text in ("[]", "{", '{"concepts": 3}'):
        (tmp_path / "out/training_args.json").write_text(text)
        assert list(metrics._warnings(records.read(tmp_path / "out"), files)) == []


@pytest.mark.parametrize("prompt, warned", [("a photo of sks dog", False), ("一张sks狗的照片", True)])
def test_an_english_clip_and_chinese_prompts_are_warned_of(measure, monkeypatch, prompt, warned):
    said = []
    monkeypatch.setattr(metrics.console, "warn", said.append)
    measure(prompts=[prompt])
    assert ("has no Chinese characters" in " ".join(said)) == warned


def test_the_sheet_names_the_number_of_updates(tmp_path):
    def title():
        return metrics._title(records.read(tmp_path).get("steps"))

    assert title() == "fine-tuned"
    record = {"flags": {}, "base_model": "", "concepts": [], "versions": {}}
    (tmp_path / "training_args.json").write_text(json.dumps({**record, "steps": 250}))
    assert title() == "fine-tuned, 250 updates"
    for text in ("{}", "[]", '{"steps": null}', json.dumps({**record, "steps": None}), json.dumps(record), "{"):
        (tmp_path / "training_args.json").write_text(text)
        assert title() == "fine-tuned"


# several subjects


@pytest.fixture
def listed(pictures, tmp_path):
    """A file with two subjects."""
    other = draw_pictures(tmp_path / "other", 3, (32, 48), first=20)
    subjects = [
        {"subject_data_dir": str(pictures), "prompt": ["a photo of sks dog"], "identifier": "sks",
         "class_prompt": "a photo of a dog"},
        {"subject_data_dir": str(other), "prompt": ["a zwx cat", "a zwx cat at night"], "identifier": "zwx"},
    ]  # fmt: skip
    (tmp_path / "subjects.json").write_text(json.dumps(subjects))
    return tmp_path / "subjects.json"


def several(twin, clip_folder, velocity_twin, *more):
    line = ["--model_path", velocity_twin, "--base_model_path", twin, "--clip_model_path", clip_folder]
    line += ["--num_images", 2, "--num_inference_steps", 2, "--num_class_images", 2, *more]
    metrics.main([str(each) for each in line])


def test_a_dino_measures_too(measure, tmp_path):
    dino = Path(__file__).parents[1] / "drawing/genuine/dino"
    out = measure("--dino_model_path", dino, "--json", tmp_path / "figures.json").splitlines()
    found = json.loads((tmp_path / "figures.json").read_text())["measures"]
    assert out[1].split()[:4] == ["DINO", *(f"{found[name]['DINO']:.3f}" for name in ("base", "fine-tuned", "subject"))]
    assert all(-1 <= each["DINO"] <= 1 for each in found.values()) and len(out) == 9


@pytest.mark.parametrize("flag", ["--clip_model_path", "--dino_model_path"])
def test_a_folder_that_is_not_there_is_refused_before_the_libraries(measure, flag):
    with pytest.raises(BadInput, match=f"{flag} ./none: there is no such folder"):
        measure(flag, "./none")


def test_several_subjects_have_a_table_each_and_one_of_whom_they_resemble(
    listed, twin, clip_folder, velocity_twin, measure, tmp_path, capsys
):
    file, sheet, folder = tmp_path / "figures.json", tmp_path / "sheet.png", tmp_path / "drawn"
    more = ["--concepts", listed, "--json", file, "--sheet", sheet, "--pictures_dir", folder]
    several(twin, clip_folder, velocity_twin, *more)
    said = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert list(report["subjects"]) == ["sks", "zwx"] and len(list(folder.iterdir())) == 6
    for name, found in report["subjects"].items():
        assert f"\n{name}\n" in f"\n{said}" and sum(found["nearest"]) == pytest.approx(1)
    assert said.count("CLIP-I  ") == 2 and "resemble most the own pictures of" in said
    assert report["subjects"]["zwx"]["measures"]["base"]["PRES"] is None
    assert [each["identifier"] for each in report["settings"]["concepts"]] == ["sks", "zwx"]
    rows = 4  # three prompts and a class
    height = Image.open(sheet).height
    assert height == sheets.TEXT_HEIGHT + rows * (sheets.TEXT_HEIGHT + sheets.SMALLEST + sheets.TEXT_HEIGHT // 2)
    # each has the figures that it has alone
    flags = ["--identifier", "sks", "--class_prompt", "a photo of a dog", "--num_class_images", 2]
    alone = json.loads(measure("--json", "-", *flags, prompts=["a photo of sks dog"]))
    assert alone["measures"] == report["subjects"]["sks"]["measures"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"subject_data_dir": None}, "subject 2: subject_data_dir is required"),
        ({"prompt": None}, "subject 2: prompt: give at least one"),
        ({"prompt": [" "]}, "subject 2: prompt: a prompt is empty"),
        ({"subject_data_dir": "/nowhere"}, "--subject_data_dir /nowhere"),
        ({"promt": "x"}, '"promt": there is no such setting'),
        ({"identifier": "sks"}, "two subjects are called sks"),
    ],
)
def test_a_fault_of_a_listed_subject_is_named(listed, twin, clip_folder, velocity_twin, change, said):
    subjects = json.loads(listed.read_text())
    subjects[1] = {name: value for name, value in {**subjects[1], **change}.items() if value is not None}
    listed.write_text(json.dumps(subjects))
    with pytest.raises(BadInput) as error:
        several(twin, clip_folder, velocity_twin, "--concepts", listed)
    assert said in str(error.value)


def test_a_list_can_not_be_combined_with_a_subject(listed, twin, clip_folder, velocity_twin):
    with pytest.raises(BadInput, match="--identifier can't be combined with --concepts"):
        several(twin, clip_folder, velocity_twin, "--concepts", listed, "--identifier", "sks")
