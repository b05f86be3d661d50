"""dreambooth.push: what others get and what they do not, on a hub of this machine that may be at fault."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import ROOT, command_line, new_python, train
from support.pictures import draw_pictures
from support.upload_hubs import NAME, TOKEN, receiving

import infer
from dreambooth import push
from dreambooth.system.errors import BadInput

PICTURES = ["step-4-0-0.png", "step-4-0-1.png"]


@pytest.fixture(scope="module")
def runs(twin, tmp_path_factory):
    """A whole network and a LoRA, of a run with class pictures and drawings; the model lies at an absolute path."""
    folder = tmp_path_factory.mktemp("home") / "bob"
    folder.mkdir()
    draw_pictures(folder / "secret dog", 2)
    (folder / "secret dog/0.txt").write_text("")
    (folder / "secret dog/0.txt").unlink()
    drawn = dict(validation_prompt=["a sks dog"], num_validation_images=2)
    common = dict(max_train_steps=4, save_steps=2, learning_rate=1e-2, **drawn)
    train(command_line(twin, folder / "secret dog", folder / "whole", **common))
    train(command_line(twin, folder / "secret dog", folder / "lora", **common, lora_rank=2))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from dreambooth.run.sharing import upload

    monkeypatch.setattr(upload, "PAUSES", (0.0, 0.0, 0.0))
    with receiving() as server:
        server.environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": TOKEN,
                              "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        yield server


def sent(hub, *arguments, fast=True, **environment):
    """Run the command in a process of its own, which reads the environment when it starts."""
    quick = "import time; time.sleep = lambda seconds: None; "  # the library waits half a minute in all
    quick += "import sys; from dreambooth.run.sharing import upload; upload.PAUSES = (0.0, 0.0, 0.0); "
    quick += "from dreambooth import push; from dreambooth.system import console; console.run_command(push.main)"
    line = ["-c", quick] if fast else ["-m", "dreambooth.push"]
    return new_python(*line, *map(str, arguments), PYTHONPATH=str(ROOT), **{**hub.environment, **environment})


def to_hub(hub, folder, *more, **environment):
    return sent(hub, "--model_path", folder, "--to", "hub", "--name", NAME, *more, **environment)


def one_error(done, code=1):
    [line] = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    assert done.returncode == code and "Traceback" not in done.stderr and TOKEN not in done.stderr + done.stdout
    return line


def draw(folder, path):
    line = ["--model_path", folder, "--prompt", "a sks dog", "--num_inference_steps", 2, "--output", path]
    infer.main([str(each) for each in line])
    return np.asarray(Image.open(path))


def test_a_result_gets_to_the_hub_and_draws_the_same(hub, runs, tmp_path):
    done = to_hub(hub, runs / "whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"http://127.0.0.1:{hub.server_port}/{NAME}"
    files = hub.repositories[NAME]
    assert hub.commits == 1 and hub.private[NAME] is True
    assert {"README.md", "model_index.json", "training_args.json", "unet/model_state.pdparams"} <= files.keys()
    assert {name for name in files if name.startswith("samples/")} == {f"samples/{name}" for name in PICTURES}
    assert not [name for name in files if name.startswith(("checkpoint", "logs", "progress", "report", "."))]
    for name, content in files.items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    assert (draw(tmp_path / "fetched", tmp_path / "a.png") == draw(runs / "whole", tmp_path / "b.png")).all()


@pytest.mark.parametrize("result", ["whole", "lora"])
def test_no_path_and_no_token_is_in_anything_that_was_sent(hub, runs, twin, result):
    assert to_hub(hub, runs / result, HOME=str(runs)).returncode == 0
    needles = [str(runs), str(twin), str(Path.cwd()), "secret dog/", TOKEN]
    for body in hub.bodies:
        for needle in needles:
            assert needle.encode() not in body
    text = json.loads(hub.repositories[NAME]["training_args.json"])
    assert text["flags"]["instance_data_dir"] == "secret dog" and text["base_folder"] is None
    assert text["base_model"] == text["flags"]["pretrained_model_name_or_path"] == twin.name
    assert text["flags"]["instance_prompt"] == "a photo of sks dog"
    for headers in hub.headers_seen:
        assert all(TOKEN not in value for name, value in headers.items() if name.lower() != "authorization")
    assert not any("instance" in name or "training_pictures" in name for name in hub.repositories[NAME])


def test_a_lora_is_shared_alone(hub, runs):
    assert to_hub(hub, runs / "lora", "--public", "--license", "mit").returncode == 0
    files = hub.repositories[NAME]
    assert "paddle_lora_weights.safetensors" in files and not any(name.startswith("unet/") for name in files)
    card = files["README.md"].decode()
    assert "license: mit" in card and "base_model: " in card and "samples/step-4-0-0.png" in card
    assert hub.private[NAME] is False


def test_training_pictures_go_only_if_they_are_asked_for(hub, runs):
    assert to_hub(hub, runs / "lora", "--with_training_pictures").returncode == 0
    files = {name: data for name, data in hub.repositories[NAME].items() if name.startswith("training_pictures/")}
    lines = [json.loads(line) for line in files.pop("training_pictures/metadata.jsonl").splitlines()]
    assert {f"training_pictures/{each['file_name']}" for each in lines} == files.keys() and len(files) == 2
    assert {each["text"] for each in lines} == {"a photo of sks dog"}


def test_what_the_author_wrote_on_the_card_stays(hub, runs, tmp_path):
    shutil.copytree(runs / "lora", tmp_path / "lora")
    card = (tmp_path / "lora/README.md").read_text()
    (tmp_path / "lora/README.md").write_text(
        card.replace("---\n\n# ", "license: mit\nlanguage: en\n---\n\n# ", 1) + "\nMine.\n"
    )
    assert to_hub(hub, tmp_path / "lora").returncode == 0
    sent_card = hub.repositories[NAME]["README.md"].decode()
    assert "license: mit" in sent_card and "language: en" in sent_card and "\nMine.\n" in sent_card


def test_a_second_push_sends_no_weights_again(hub, runs):
    assert to_hub(hub, runs / "whole").returncode == 0
    before = len([each for each in hub.asked if each.startswith("PUT /upload/")])
    assert before > 3
    assert to_hub(hub, runs / "whole").returncode == 0
    assert len([each for each in hub.asked if each.startswith("PUT /upload/")]) == before and hub.commits == 2


@pytest.mark.parametrize(
    ("status", "reason", "where"),
    [
        (401, "does not accept the token", "/api/repos/create"),
        pytest.param(403, "may not write there", "/commit/main", marks=pytest.mark.slow),
        pytest.param(404, "no such user", "/preupload/main", marks=pytest.mark.slow),
        (413, "larger than", "/upload/"),
    ],
)
def test_a_refusal_is_one_line(hub, runs, status, reason, where):
    hub.fault = lambda handler, path, count: where in path and handler.answer(status)
    line = one_error(to_hub(hub, runs / "lora"))
    assert reason in line and NAME in line and hub.commits == 0
    assert hub.repositories.get(NAME, {}) == {}


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        pytest.param(409, "/commit/main", marks=pytest.mark.slow),
        (429, "/upload/"),
        (500, "/preupload/main"),
        pytest.param(503, "/info/lfs/objects/batch", marks=pytest.mark.slow),
        ("cut", "/upload/"),
        pytest.param("cut", "/commit/main", marks=pytest.mark.slow),
    ],
)
def test_a_fault_that_passes_is_tried_again(hub, runs, where, fault):
    def fail(handler, path, count):
        if where not in path or count > 1:
            return False
        return handler.cut() if fault == "cut" else handler.answer(fault)

    hub.fault = fail
    done = to_hub(hub, runs / "lora")
    assert done.returncode == 0, done.stderr
    assert hub.commits == 1 and "README.md" in hub.repositories[NAME]


@pytest.mark.parametrize(
    ("fault", "where", "reason"),
    [
        pytest.param(409, "/commit/main", "somebody else writes there", marks=pytest.mark.slow),
        (500, "/upload/", "answers with 500"),
        ("cut", "/upload/", "connection was cut"),
        pytest.param("cut", "/commit/main", "connection was cut", marks=pytest.mark.slow),
    ],
)
def test_a_fault_that_stays_ends_in_one_line_and_leaves_the_repository_as_it_was(hub, runs, where, fault, reason):
    assert to_hub(hub, runs / "lora").returncode == 0
    before = dict(hub.repositories[NAME])
    hub.objects.clear()
    hub.fault = lambda handler, path, count: where in path and (
        handler.cut() if fault == "cut" else handler.answer(fault)
    )
    line = one_error(to_hub(hub, runs / "whole"))
    assert reason in line and hub.repositories[NAME] == before and hub.commits == 1
    hub.fault = None
    assert to_hub(hub, runs / "whole").returncode == 0 and hub.commits == 2


def test_a_repository_that_is_there_gets_a_commit_and_stays_as_visible_as_it_is(hub, runs):
    hub.repositories[NAME], hub.private[NAME] = {"old.txt": b"old"}, False
    assert to_hub(hub, runs / "lora").returncode == 0
    assert hub.private[NAME] is False and hub.repositories[NAME]["old.txt"] == b"old"


def test_without_a_token_or_a_hub_there_is_one_line(hub, runs):
    assert "there is no token; set HF_TOKEN" in one_error(to_hub(hub, runs / "lora", HF_TOKEN=""), 2)
    assert "HF_HUB_OFFLINE is set" in one_error(to_hub(hub, runs / "lora", HF_HUB_OFFLINE="1"), 2)
    assert hub.asked == []
    line = one_error(to_hub(hub, runs / "lora", HF_ENDPOINT="http://user:password@127.0.0.1:9"))
    assert "connection was cut" in line and "password" not in line


@pytest.mark.parametrize("name", ["dog", "some body/dog"])
def test_a_name_that_the_hub_does_not_take_is_refused(hub, runs, name):
    done = sent(hub, "--model_path", runs / "lora", "--to", "hub", "--name", name)
    assert "--name" in one_error(done, 2) and hub.asked == []


def test_a_folder_gets_the_same_files(runs, tmp_path, capsys):
    push.main(["--model_path", str(runs / "lora"), "--to", "folder", "--output", str(tmp_path / "shared")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "shared")
    names = {path.relative_to(tmp_path / "shared").as_posix() for path in (tmp_path / "shared").rglob("*.*")}
    assert names == {"README.md", "training_args.json", "paddle_lora_weights.safetensors",
                     *(f"samples/{name}" for name in PICTURES)}  # fmt: skip


def test_a_dry_run_sends_and_writes_nothing(hub, runs, tmp_path, capsys):
    push.main(["--model_path", str(runs / "lora"), "--to", "folder", "--output", str(tmp_path / "x"), "--dry_run"])
    assert "nothing was sent or written" in capsys.readouterr().out and not (tmp_path / "x").exists()
    done = to_hub(hub, runs / "lora", "--dry_run", HF_TOKEN="")
    assert done.returncode == 0 and hub.asked == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["--to", "hub"], "--to hub needs --name"),
        (["--to", "folder"], "--to folder needs --output"),
        (["--to", "folder", "--output", "x", "--name", "a/b"], "--name needs --to hub"),
        (["--to", "folder", "--output", "x", "--public"], "--public needs --to hub"),
        (["--to", "hub", "--name", "a/b", "--output", "x"], "--output needs --to folder"),
        (["--to", "folder", "--output", "x", "--license", "My Licence!"], "no name of a licence"),
        (["--to", "moon"], "invalid choice"),
        ([], "--to is required"),
    ],
)
def test_flags_that_do_not_fit_are_refused(runs, line, reason):
    with pytest.raises(BadInput) as error:
        push.main(["--model_path", str(runs / "lora"), *line])
    assert reason in str(error.value)


def test_a_folder_that_is_not_empty_or_is_shared_itself_is_refused(runs, tmp_path):
    (tmp_path / "file").write_text("")
    for output, reason in ((tmp_path, "something is there"), (runs / "lora/inside", "lies in the folder")):
        with pytest.raises(BadInput, match=reason):
            push.main(["--model_path", str(runs / "lora"), "--to", "folder", "--output", str(output)])


def test_the_token_is_no_flag():
    assert not any("token" in name for name in push.PushSettings.__dataclass_fields__)
    assert "HF_TOKEN" in (push.__doc__ or "") and os.environ.get("HF_TOKEN") != TOKEN
