"""The shell scripts: which Python they take, what they pass on, and that requirements and set-up agree."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import ROOT
from support.known_sizes import STABLE_DIFFUSION_1
from support.slowly import mostly_slow

from dreambooth.config.parser import read_config
from dreambooth.run.memory import estimate
from dreambooth.training.optimizers.table import OPTIMIZERS


def bash(command, **environment):
    # with a search path comes a stand-in for nvidia-smi, which the tests do not hide
    dropped = ("PYTHON", "PADDLE", *(("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER") if "PATH" in environment else ()))
    clean = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )


def stand_in(folder, name, script):
    """An executable of this name that runs a shell script instead."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def echo(tmp_path):
    """A Python that prints its arguments, a line each, and whose Paddle is one for the CPU."""
    return str(stand_in(tmp_path / "bin", "echoing-python", '[ "$1" != -c ] && printf "%s\\n" "$@"'))


@pytest.fixture
def echo_of_cards(tmp_path):
    """The same with a Paddle for cards."""
    return str(stand_in(tmp_path / "bin", "python-for-cards", 'printf "%s\\n" "$@"'))


@pytest.fixture
def card(tmp_path):
    """A search path on which nvidia-smi lists cards 0, 1 and 2."""
    stand_in(tmp_path / "card", "nvidia-smi", "printf '0\\n1\\n2\\n'")
    return f"{tmp_path / 'card'}:{os.environ['PATH']}"


def flags_of(lines):
    return dict(zip(lines[::2], lines[1::2]))


@pytest.mark.parametrize("source", [["--config", "my.yaml"], ["--preset=sd15_lora_8gb"]])
@pytest.mark.parametrize("search", ["card", "no_card"])
def test_with_a_file_or_a_preset_only_variables_that_are_set_count(echo, request, search, source):
    path = {"PATH": request.getfixturevalue("card")} if search == "card" else {"CUDA_VISIBLE_DEVICES": "-1"}
    done = bash(f"bash run_single.sh {' '.join(source)} --seed 1", PYTHON=echo, **path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["./train_dreambooth.py", *source, "--seed", "1"]
    done = bash(
        f"bash run_single.sh {' '.join(source)}", PYTHON=echo, INSTANCE_DIR="my dog", MAX_TRAIN_STEPS="7", **path
    )
    given = ["--instance_data_dir", "my dog", "--max_train_steps", "7"]
    assert done.stdout.splitlines() == ["./train_dreambooth.py", *given, *source]


@pytest.mark.parametrize("search", ["card", "no_card"])
def test_a_list_of_subjects_takes_the_place_of_the_sample_dog(echo, request, search):
    path = {"PATH": request.getfixturevalue("card")} if search == "card" else {"CUDA_VISIBLE_DEVICES": "-1"}
    done = bash("bash run_single.sh --concepts subjects.yaml", PYTHON=echo, **path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    script, *given = lines[lines.index("./train_dreambooth.py") :]
    flags = flags_of([each for each in given if each != "--train_text_encoder"])
    assert script == "./train_dreambooth.py" and flags["--concepts"] == "subjects.yaml"
    assert not {"--instance_data_dir", "--instance_prompt", "--class_prompt", "--with_prior_preservation"} & set(given)
    assert {"--resolution", "--pretrained_model_name_or_path"} <= flags.keys()
    assert "dreambooth.metrics" not in done.stdout


def test_run_single_with_a_card_has_the_promised_defaults(echo, card):
    done = bash("bash run_single.sh", PYTHON=echo, PATH=card)
    assert done.returncode == 0, done.stderr
    script, *given = done.stdout.splitlines()
    assert script == "./train_dreambooth.py"
    assert flags_of(given) == {
        "--pretrained_model_name_or_path": "CompVis/stable-diffusion-v1-4",
        "--instance_data_dir": "./dream_image",
        "--output_dir": "./dream_outputs",
        "--instance_prompt": "a photo of sks dog",
        "--resolution": "512",
        "--train_batch_size": "1",
        "--gradient_accumulation_steps": "1",
        "--lr_scheduler": "constant",
    }


def of_memory(folder, *megabytes, capability="8.6"):
    """A search path on which nvidia-smi lists cards of so many megabytes."""
    listed = "\\n".join(map(str, megabytes))
    answers = f"*memory.total*) printf '{listed}\\n' ;; *compute_cap*) echo {capability} ;; *) echo 0 ;;"
    stand_in(folder / "card", "nvidia-smi", f"case $* in {answers} esac")
    return f"{folder / 'card'}:{os.environ['PATH']}"


def method_of(done):
    """The flags that run_single.sh added for the card, all of which it prints."""
    lines = done.stdout.splitlines()
    said = [line for line in lines if line.startswith("The card has ")]
    flags = lines[lines.index("--lr_scheduler") + 2 :]
    assert not said or f"adds: {' '.join(flags)} (" in said[0]
    return flags


@pytest.mark.parametrize("megabytes", [7800, 8188, 11264, 12282, 15360, 16376, 24564, 81559])
@pytest.mark.parametrize("prior", [False, True])
def test_run_single_takes_a_method_that_fits_the_card(echo, tmp_path, megabytes, prior):
    flags = method_of(bash("bash run_single.sh", PYTHON=echo, PATH=of_memory(tmp_path, megabytes)))
    line = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "d", "--instance_prompt", "p", *flags]
    line += ["--train_batch_size", "1", "--output_dir", "o"]
    line += ["--with_prior_preservation", "--class_prompt", "c", "--class_data_dir", "e"] if prior else []
    config = read_config(line, "")
    state = OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight
    peak = estimate.peak(config, STABLE_DIFFUSION_1, estimate.CARD, state).total
    assert peak < 0.92 * (megabytes << 20)
    assert ("--lora_rank" in flags) == ("--lora_merge" in flags) == (megabytes < 10000)


@pytest.mark.parametrize("megabytes", [8188, 11264, 12282, 15360, 16376, 24564])
@pytest.mark.parametrize(
    "environment", [{"GPUS": "0,1"}, {"GPUS": "0", "NNODES": "2", "MASTER": "10.0.0.1:8000", "NODE_RANK": "0"}]
)
def test_run_multi_takes_a_method_that_several_processes_can_have(echo_of_cards, tmp_path, megabytes, environment):
    done = bash("bash run_multi.sh", PYTHON=echo_of_cards, PATH=of_memory(tmp_path, megabytes), **environment)
    flags = method_of(done)
    assert "--early_update" not in flags, done.stdout
    line = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "d", "--instance_prompt", "p", *flags]
    config = read_config([*line, "--train_batch_size", "1"], "")
    state = OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight
    assert estimate.peak(config, STABLE_DIFFUSION_1, estimate.CARD, state).total < 0.92 * (megabytes << 20)
    assert ("--lora_rank" in flags) == (megabytes < 11000)


@pytest.mark.parametrize(
    "flags, environment",
    [
        ("--lora_rank 8", {}),
        ("--optimizer=adafactor", {}),
        ("--max_grad_norm 1", {}),
        ("", {"GRADIENT_ACCUMULATION_STEPS": "4"}),
        ("", {"MODEL_NAME": "thu-ml/unidiffuser-v1"}),
    ],
)
def test_run_single_leaves_the_choice_of_a_method_to_the_user(echo, tmp_path, flags, environment):
    done = bash(f"bash run_single.sh {flags}", PYTHON=echo, PATH=of_memory(tmp_path, 12282), **environment)
    assert method_of(done) == flags.split() and "The card has" not in done.stdout


@pytest.mark.parametrize("capability, has_half", [("6.1", False), ("7.0", True), ("7.5", True), ("10.0", True)])
def test_half_precision_is_taken_where_the_card_has_it(echo, tmp_path, capability, has_half):
    path = of_memory(tmp_path, 8188, capability=capability)
    assert ("--mixed_precision" in method_of(bash("bash run_single.sh", PYTHON=echo, PATH=path))) == has_half


def test_the_smallest_of_several_cards_decides(echo, tmp_path):
    done = bash("bash run_single.sh", PYTHON=echo, PATH=of_memory(tmp_path, 24564, 8188))
    assert "--lora_rank" in method_of(done)


def test_run_single_without_a_card_teaches_the_embedded_model_and_measures_it(echo):
    done = bash("bash run_single.sh", PYTHON=echo)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "embedded model" in lines[0] and "MODEL_NAME=" in lines[1]
    train, photograph = lines.index("./train_dreambooth.py"), lines.index("miniworld.photograph")
    given = lines[train + 1 : photograph - 1]
    given.remove("--with_prior_preservation")
    given.remove("--train_text_encoder")
    assert flags_of(given) == {
        "--pretrained_model_name_or_path": "./miniworld/model",
        "--instance_data_dir": "./dream_image",
        "--output_dir": "./dream_outputs",
        "--instance_prompt": "a photo of sks dog",
        "--resolution": "64",
        "--train_batch_size": "3",
        "--gradient_accumulation_steps": "1",
        "--learning_rate": "2e-4",
        "--lr_scheduler": "constant",
        "--max_train_steps": "600",
        "--ema_decay": "0.98",
        "--timestep_shift": "2",
        "--text_encoder_lr": "3e-5",
        "--validation_prompt": "a photo of sks dog",
        "--class_prompt": "a photo of a dog",
        "--class_data_dir": "./class_images/miniworld",
        "--num_class_images": "48",
    }
    assert lines[-1] == "./dream_outputs/sheet.png" and "dreambooth.metrics" in lines[photograph:]


@pytest.mark.parametrize(
    "environment, flags, rate, steps",
    [
        ({}, "", None, None),
        ({}, "--lora_rank 4", None, None),
        ({"LEARNING_RATE": "2e-6", "MAX_TRAIN_STEPS": "9"}, "--lora_rank 4", "2e-6", "9"),
    ],
)
def test_a_rate_and_steps_are_the_tools_own_unless_the_user_gives_them(echo, card, environment, flags, rate, steps):
    line = bash(f"bash run_single.sh {flags}", PYTHON=echo, PATH=card, **environment).stdout.splitlines()
    for flag, value in (("--learning_rate", rate), ("--max_train_steps", steps)):
        assert (line[line.index(flag) + 1] == value) if value else flag not in line


@pytest.mark.parametrize(
    "environment, flags, rate, steps, text_encoder",
    [
        ({}, "", "2e-4", "600", True),
        ({}, "--lora_rank 4", "2e-3", "250", False),
        ({}, "--lora_rank=4", "2e-3", "250", False),
        ({"LEARNING_RATE": "1e-3"}, "--lora_rank 4 --lora_targets attention", "1e-3", "250", False),
        ({}, "--trained_layers key_value", "2e-4", "600", False),
        ({"CLASS_PROMPT": ""}, "--learn_identifier alone", "2e-4", "600", False),
        ({}, "--learn_identifier=jointly", "2e-4", "600", True),
    ],
)
def test_the_embedded_model_has_rates_of_its_own(echo, environment, flags, rate, steps, text_encoder):
    from dreambooth.config.parser import read_config

    line = bash(f"bash run_single.sh {flags}", PYTHON=echo, **environment).stdout.splitlines()
    line = line[line.index("./train_dreambooth.py") + 1 :]
    line = line[: line.index("-m")] if "-m" in line else line
    assert line[line.index("--learning_rate") + 1] == rate and line[line.index("--max_train_steps") + 1] == steps
    assert ("--train_text_encoder" in line) == ("--text_encoder_lr" in line) == text_encoder
    words = [each.replace("sks", "<sks>") if "--learn" in flags else each for each in line]
    config = read_config(words, "")  # nothing contradicts
    assert config.objective.timestep_shift == (1 if "lora" in flags else 2)
    if "lora" in flags:
        assert config.lora.lora_targets == (("attention",) if "attention" in flags else ("all",))


@pytest.mark.parametrize("given", [{"MASTER": "10.0.0.1:8000"}, {"NODE_RANK": "0"}, {}])
def test_several_machines_need_an_address_and_a_number(echo, given):
    done = bash("bash run_multi.sh", PYTHON=echo, NNODES="2", **given)
    assert done.returncode == 2 and done.stderr.startswith("error: NNODES=2 needs MASTER") and done.stdout == ""


@pytest.mark.parametrize("script", ["run_single.sh", "run_multi.sh", "setup.sh", "tests/run.sh"])
def test_a_python_that_is_not_there_is_named(script):
    done = bash(f"bash {script}", PYTHON="/nope")
    assert done.returncode == 2 and done.stderr == "error: PYTHON=/nope: there is no such program\n"


@pytest.mark.parametrize("hidden", ["", "-1"])
@pytest.mark.parametrize("script", ["run_single.sh", "run_multi.sh"])
def test_hidden_cards_are_no_cards(echo, card, script, hidden):
    line = bash(f"bash {script}", PYTHON=echo, PATH=card, CUDA_VISIBLE_DEVICES=hidden).stdout.splitlines()
    assert "./miniworld/model" in line and "--gpus" not in line


@pytest.mark.parametrize("hidden", [None, "", "-1"])
def test_a_card_beside_a_paddle_for_the_cpu_is_warned_of(card, hidden):
    environment = {} if hidden is None else {"CUDA_VISIBLE_DEVICES": hidden}
    path = f"{Path(card.split(':')[0])}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = bash("bash setup.sh", PATH=path, **environment)
    assert done.returncode == 0, done.stderr
    assert ("has a card, but" in done.stderr) == (hidden is None)


@pytest.mark.parametrize("variable", ["INSTANCE_DIR", "INSTANCE_PROMPT", "MODEL_NAME"])
def test_what_is_not_the_sample_dog_is_not_measured_against_it(echo, variable):
    lines = bash("bash run_single.sh", PYTHON=echo, **{variable: "./mine"}).stdout.splitlines()
    assert "./train_dreambooth.py" in lines and "./mine" in lines and "dreambooth.metrics" not in lines
    # nor is a class of dogs preserved for a subject that may be something else
    assert ("a photo of a dog" in lines) == (variable == "INSTANCE_DIR")


@pytest.mark.parametrize("flag", ["instance_data_dir", "instance_prompt", "pretrained_model_name_or_path"])
@pytest.mark.parametrize("joint", [" ", "="])
def test_nor_where_a_flag_says_so(echo, flag, joint):
    lines = bash(f"bash run_single.sh --{flag}{joint}mine", PYTHON=echo).stdout.splitlines()
    assert "./train_dreambooth.py" in lines and "dreambooth.metrics" not in lines


@pytest.mark.parametrize("flag", ["-h", "--help", "--dry_run"])
def test_a_run_that_trains_nothing_is_not_measured(echo, flag):
    assert "dreambooth.metrics" not in bash(f"bash run_single.sh {flag}", PYTHON=echo).stdout


@pytest.mark.parametrize(
    "flags", ["--output_dir /tmp/x/e2", "--output_dir=/tmp/x/e2", "--output_dir a --output_dir /tmp/x/e2"]
)
def test_the_folder_of_the_last_flag_is_measured(echo, flags):
    lines = bash(f"bash run_single.sh {flags} --seed 1", PYTHON=echo, OUTPUT_DIR="./other").stdout.splitlines()
    measured = lines[lines.index("dreambooth.metrics") :]
    assert measured[measured.index("--model_path") + 1] == "/tmp/x/e2" and measured[-1] == "/tmp/x/e2/sheet.png"
    assert measured[measured.index("--guidance_scale") + 1] == "6"  # as docs/learning.md has it
    assert "/tmp/x/e2/samples/subject" in lines


def test_an_empty_class_prompt_turns_prior_preservation_off(echo):
    lines = bash("bash run_single.sh", PYTHON=echo, CLASS_PROMPT="").stdout.splitlines()
    assert "--with_prior_preservation" not in lines


def test_settings_come_from_the_environment_and_flags_are_passed_on(echo):
    done = bash(
        "bash run_single.sh --train_text_encoder --seed 3",
        PYTHON=echo,
        MODEL_NAME="./my model",
        INSTANCE_PROMPT="a photo of 'sks' cat",
        MAX_TRAIN_STEPS="7",
        CLASS_PROMPT="a photo of a cat",
    )
    line = done.stdout.splitlines()
    assert "./my model" in line and "a photo of 'sks' cat" in line and "7" in line
    assert "--with_prior_preservation" in line and "a photo of a cat" in line
    assert line[-3:] == ["--train_text_encoder", "--seed", "3"]


def test_run_multi_takes_the_visible_cards_or_those_in_gpus(echo_of_cards, card):
    path, echo = card, echo_of_cards
    line = bash("bash run_multi.sh --seed 1", PYTHON=echo, PATH=path).stdout.splitlines()
    assert line[:2] == ["-m", "paddle.distributed.launch"] and line[line.index("--gpus") + 1] == "0,1,2"
    assert line[-2:] == ["--seed", "1"]
    line = bash("bash run_multi.sh", PYTHON=echo, PATH=path, GPUS="0,2").stdout.splitlines()
    assert line[line.index("--gpus") + 1] == "0,2"
    line = bash(
        "bash run_multi.sh", PYTHON=echo, PATH=path, NNODES="2", MASTER="10.0.0.1:8000", NODE_RANK="1"
    ).stdout.splitlines()
    assert line[line.index("--master") + 1] == "10.0.0.1:8000" and line[line.index("--rank") + 1] == "1"


def test_run_multi_without_a_card_uses_processes_of_the_cpu_and_refuses_gpus(echo, tmp_path):
    stand_in(tmp_path / "bin", "nvidia-smi", "exit 9")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    line = bash("bash run_multi.sh", PYTHON=echo, PATH=path, CUDA_VISIBLE_DEVICES="").stdout.splitlines()
    assert line[line.index("--nproc_per_node") + 1] == "2" and "--gpus" not in line
    done = bash("bash run_multi.sh", PYTHON=echo, PATH=path, GPUS="0,1")
    assert done.returncode == 2 and done.stderr.startswith("error: GPUS=0,1") and done.stdout == ""


def test_run_multi_beside_a_card_and_a_paddle_for_the_cpu_uses_the_cpu(echo, card):
    done = bash("bash run_multi.sh", PYTHON=echo, PATH=card)
    assert done.returncode == 0 and "--gpus" not in done.stdout
    line = done.stdout.splitlines()
    assert line[line.index("--nproc_per_node") + 1] == "2"
    done = bash("bash run_multi.sh", PYTHON=echo, PATH=card, GPUS="0,1")
    assert done.returncode == 2 and done.stderr.startswith(f"error: GPUS=0,1: {echo} has a Paddle for the CPU alone")


@pytest.mark.parametrize("hidden", mostly_slow(["", "-1"]))
def test_the_launcher_itself_starts_where_cards_are_hidden(hidden, tmp_path):
    settings = dict(MODEL_NAME="miniworld/model", RESOLUTION="64", OUTPUT_DIR=str(tmp_path / "out"))
    done = bash("bash run_multi.sh --dry_run", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES=hidden, **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "x 2 processes" in done.stdout and "dry run" in done.stdout and "Traceback" not in done.stderr


def test_ctrl_c_ends_run_multi_as_it_ends_run_single(tmp_path):
    waits = "trap 'exit 2' INT; touch ready; while :; do sleep 0.1; done"  # as the launcher ends
    fake = stand_in(tmp_path / "bin", "python", f'[ "$1" != -c ] || exit 1; cd {tmp_path}; {waits}')
    run = subprocess.Popen(
        ["bash", "run_multi.sh"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(fake), "MODEL_NAME": "m", "LAUNCH_LOG": str(tmp_path)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
        assert run.poll() is None
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(30) == 130


@pytest.mark.parametrize("script", ["run_single.sh", "run_multi.sh"])
def test_the_scripts_run_from_any_folder_whose_paths_they_then_mean(echo, tmp_path, script):
    done = bash(f"cd {ROOT.parent} && bash {ROOT.name}/{script}", PYTHON=echo, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()
    assert f"{ROOT.name}/train_dreambooth.py" in line and line[line.index("--output_dir") + 1] == "./dream_outputs"
    assert line[line.index("--instance_data_dir") + 1] == f"{ROOT.name}/dream_image"


def test_run_multi_trains(twin, pictures, tmp_path):
    done = bash(
        "bash run_multi.sh --seed 0",
        PYTHON=sys.executable,
        MODEL_NAME=str(twin),
        INSTANCE_DIR=str(pictures),
        OUTPUT_DIR=str(tmp_path / "out"),
        RESOLUTION="32",
        MAX_TRAIN_STEPS="2",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/model_index.json").exists() and "x 2 processes" in done.stdout
    printed = [line for line in (done.stdout + done.stderr).replace("\r", "\n").splitlines() if line.strip()]
    ours = (
        "model",
        "pictures",
        "prompt",
        "learning",
        "steps",
        "rate",
        "seed",
        "device",
        "memory",
        "log",
        "disk",
        "done",
        "pipeline",
        "Encoding",
        "Training",
    )
    ours += ("warning: --max_train_steps 2: 2 updates",)
    assert [line for line in printed if not line.startswith(tuple(ours))] == []


def test_setup_takes_the_active_python_where_it_has_everything():
    active = Path(sys.executable).parent
    done = bash('. ./setup.sh; setup tests/requirements.txt; echo "$PYTHON"', PATH=f"{active}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == active


@pytest.fixture
def copy(tmp_path):
    """A copy of the set-up in a new folder, where the Pythons that are found have nothing, and whose venv's pip only
    notes what it is asked for."""
    folder = tmp_path / "a new place"
    (folder / "tests").mkdir(parents=True)
    for name in (
        "setup.sh",
        *(f"requirements{each}.txt" for each in ("", "-2.6.2", "-cuda11")),
        "tests/requirements.txt",
    ):
        (folder / name).write_text((ROOT / name).read_text())
    python = f"""
    case "$*" in
        *"-m pip --version"*) [ -e "{folder}/made" ] ;;
        *"-m pip install"*)
            [ ! -e "{folder}/cut" ] || exit 1
            echo "pip $*" >>"{folder}/asked"
            for each in "$@"; do
                case $each in /dev/fd/*) cat "$each" >>"{folder}/asked" ;; esac
            done
            ;;
        *"-m venv"*)
            for last; do :; done
            mkdir -p "$last/bin"
            cp "$0" "$last/bin/python"
            touch "{folder}/made"
            ;;
        *"-m pip uninstall"*) echo "pip $*" >>"{folder}/asked" ;;
        "-m dreambooth.selfcheck --operations")
            echo "check on ${{CUDA_VISIBLE_DEVICES-all}}" >>"{folder}/asked"
            [ ! -e "{folder}/broken" ] ||
                ! grep -qFf "{folder}/broken" <(grep "pip install" "{folder}/asked" | tail -n 1)
            ;;
        "- "*) exit 1 ;;
        --version) echo Python 3.11 ;;
    esac"""
    for name in ("python", "python3"):
        stand_in(folder / "path", name, python)
    return folder


def run_setup(folder, cards="", driver="535.104.05", **environment):
    """Set up where nvidia-smi lists some cards, given as their compute capabilities with \\n between them."""
    listed = f'printf "{cards}\\n"'
    named = f"{listed} | awk '{{print $0 \", GPU-\" NR}}'"
    properties = f'case "$*" in *driver*) echo "{driver}" ;; *uuid*) {named} ;; *) {listed} ;; esac'
    stand_in(folder / "path", "nvidia-smi", f'[ -n "{cards}" ] && {properties}')
    path = f"{folder / 'path'}:{os.environ['PATH']}"
    return bash(f'cd "{folder}" && bash setup.sh', PATH=path, **environment)


def test_setup_makes_an_environment_once(copy):
    done = run_setup(copy)
    assert done.returncode == 0, done.stderr
    assert "making" in done.stdout and "installing paddlepaddle==3.3.1" in done.stdout and "done" in done.stdout
    asked = (copy / "asked").read_text()
    assert (
        asked.count("pip -m pip install") == 1 and "ppdiffusers==0.29.0" in asked and asked.count("paddlepaddle==") == 1
    )
    again = run_setup(copy)
    assert again.returncode == 0 and again.stdout == "" and (copy / "asked").read_text() == asked


def test_setup_for_the_tests_adds_to_the_environment_and_does_not_undo_it(copy):
    path = f"{copy / 'path'}:{os.environ['PATH']}"
    run_setup(copy)
    for installs in (2, 2):
        done = bash(f'cd "{copy}" && . ./setup.sh && setup tests/requirements.txt && setup', PATH=path)
        assert done.returncode == 0, done.stderr
        assert (copy / "asked").read_text().count("pip -m pip install") == installs
    assert "pytest" in (copy / "asked").read_text() and run_setup(copy).stdout == ""


def test_setup_completes_what_an_interrupted_run_left(copy):
    (copy / "cut").touch()
    assert run_setup(copy).returncode != 0
    (copy / "cut").unlink()
    done = run_setup(copy)
    assert done.returncode == 0 and "making" not in done.stdout and "installing" in done.stdout


def test_setup_installs_again_when_the_requirements_change(copy):
    run_setup(copy)
    with open(copy / "requirements.txt", "a") as file:
        file.write("six\n")
    assert "installing" in run_setup(copy).stdout


# what a card and a driver get, the best first
BUILDS = {
    ("GTX 980", "5.2"): ("", "", "", ""),
    ("P100", "6.0"): ("", "cu118", "cu118", "cu118"),
    ("GTX 1080", "6.1"): ("", "cu118 pypi", "cu118 pypi", "cu118 pypi"),
    ("V100", "7.0"): ("", "cu118 pypi", "cu126 cu118 pypi", "cu126 cu118 pypi"),
    ("T4", "7.5"): ("", "cu118 pypi", "cu126 cu118 pypi", "cu126 cu118 pypi"),
    ("A100", "8.0"): ("", "cu118 pypi", "cu126 cu118 pypi", "cu126 cu118 pypi"),
    ("RTX 3090", "8.6"): ("", "cu118 pypi", "cu126 cu118 pypi", "cu126 cu118 pypi"),
    ("RTX 4090", "8.9"): ("", "cu118", "cu126 cu118", "cu126 cu118"),
    ("H100", "9.0"): ("", "cu118", "cu126 cu118", "cu126 cu118"),
    ("RTX 5090", "12.0"): ("", "", "", "cu129"),
}
DRIVERS = "440.118.02", "470.57.02", "535.104.05", "575.57.08"


@pytest.mark.parametrize("card, capability", BUILDS)
def test_setup_tries_the_builds_that_fit_a_card_and_its_driver(card, capability):
    lines = "".join(f'choose_builds {capability} {driver} | paste -sd" "; ' for driver in DRIVERS)
    done = bash(f"set -euo pipefail; . ./setup.sh; {lines}")
    assert done.returncode == 0 and tuple(done.stdout.split("\n")[:4]) == BUILDS[card, capability]


# cards, driver: the cards that are served, and the builds for all of these
SEVERAL = {
    ("8.6 8.6", "535.1"): ("8.6", "cu126 cu118 pypi"),
    ("6.1 8.9", "535.1"): ("6.1 8.9", "cu118"),
    ("8.0 6.1 8.6", "535.1"): ("6.1 8.0 8.6", "cu118 pypi"),
    ("12.0 8.9", "575.1"): ("12.0", "cu129"),
    ("6.1 12.0 12.0", "575.1"): ("12.0", "cu129"),
    ("8.9 12.0", "535.1"): ("8.9", "cu126 cu118"),  # the driver is too old for the newest
    ("5.2 7.5", "535.1"): ("7.5", "cu126 cu118 pypi"),
    ("5.2 12.0", "535.1"): ("", ""),
}


@pytest.mark.parametrize("cards, driver", SEVERAL)
def test_several_cards_get_the_builds_that_serve_them_all(cards, driver):
    rising = f'mapfile -t cards < <(printf "%s\\n" {cards} | sort -uV)'
    served = f'mapfile -t served < <(serve_most {driver} "${{cards[@]}}")'
    builds = f'common_builds {driver} "${{served[@]}}" | paste -sd" "'
    done = bash(f'set -euo pipefail; . ./setup.sh; {rising}; {served}; echo "${{served[*]}}"; {builds}')
    assert done.returncode == 0 and tuple(done.stdout.split("\n")[:2]) == SEVERAL[cards, driver], done.stderr


def test_setup_takes_a_build_for_both_of_two_cards(copy):
    done = run_setup(copy, cards="8.9\\n6.1")
    assert done.returncode == 0 and "capability 6.1 and 8.9" in done.stdout and "no Paddle serves" not in done.stdout
    asked = (copy / "asked").read_text()
    assert "/stable/cu118/ paddlepaddle-gpu==3.3.1" in asked and "check on all" in asked


def test_setup_says_which_of_two_cards_it_serves_and_tests_that(copy):
    done = run_setup(copy, cards="6.1\\n12.0\\n12.0", driver="575.1")
    [line] = [line for line in done.stdout.splitlines() if "no Paddle serves" in line]
    names = "export CUDA_VISIBLE_DEVICES=GPU-2,GPU-3"
    assert line == f"setup: no Paddle serves all of them; this one serves 12.0; to see no other: {names}"
    asked = (copy / "asked").read_text()
    assert "/stable/cu129/ paddlepaddle-gpu==3.3.1" in asked and "check on GPU-2,GPU-3" in asked


@pytest.mark.parametrize(
    "visible, order, found",
    [
        (None, None, "8.6 6.1"),
        ("GPU-b", None, "6.1"),
        ("0", None, "8.6 6.1"),  # CUDA counts from the fastest card, and nvidia-smi does not
        ("1", "PCI_BUS_ID", "6.1"),
        ("GPU-short", None, "8.6 6.1"),  # which nvidia-smi does not know
        ("", "PCI_BUS_ID", "none"),
        ("-1", "PCI_BUS_ID", "none"),
    ],
)
def test_the_visible_cards_decide(tmp_path, visible, order, found):
    script = 'case "$*" in *"-i GPU-b"* | *"-i 1"*) echo 6.1 ;; *-i*) exit 6 ;; *) printf "8.6\\n6.1\\n" ;; esac'
    path = f"{stand_in(tmp_path / 'bin', 'nvidia-smi', script).parent}:{os.environ['PATH']}"
    given = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": order}
    environment = {name: value for name, value in given.items() if value is not None}
    command = 'set -euo pipefail; . ./setup.sh; { query_cards compute_cap || echo none; } | paste -sd" "'
    assert bash(command, PATH=path, **environment).stdout == f"{found}\n"


@pytest.mark.parametrize("version", ["3.3.1", "2.6.2"])
def test_a_paddle_for_the_cpu_that_the_user_chose_is_no_fault(copy, version):
    done = run_setup(copy, cards="8.6", PADDLE=version)
    assert done.returncode == 0 and f"installing paddlepaddle=={version}" in done.stdout and done.stderr == ""
    said = "is a Paddle for the CPU alone, so the card is not used; without PADDLE, the card gets its own"
    assert done.stdout.splitlines()[-1] == f"setup: PADDLE={version} {said}"
    assert "PADDLE" not in run_setup(copy, PADDLE=version).stdout


def test_setup_installs_the_first_build_and_tests_it(copy):
    done = run_setup(copy, cards="8.6")
    asked = (copy / "asked").read_text()
    assert done.returncode == 0 and "capability 8.6, driver 535.104.05" in done.stdout
    assert "testing paddlepaddle-gpu==3.3.1 on the card" in done.stdout
    assert "/stable/cu126/ paddlepaddle-gpu==3.3.1" in asked and asked.count("pip install") == 1
    # a Paddle for the CPU that was there is gone before
    assert asked.index("pip uninstall -q -y paddlepaddle\n") < asked.index("pip install")
    again = run_setup(copy, cards="8.6")
    assert again.returncode == 0 and "installing" not in again.stdout


def test_setup_goes_on_to_the_next_build_where_one_does_not_work(copy):
    (copy / "broken").write_text("stable/cu1\n")  # both of Paddle's own
    done = run_setup(copy, cards="8.6")
    asked = (copy / "asked").read_text()
    assert done.returncode == 0 and asked.count("-m pip install") == 3
    assert asked.count("pip uninstall -q -y paddlepaddle-gpu") == 2
    last = asked[asked.rindex("-m pip install") :]
    assert "paddlepaddle-gpu==2.6.2" in last and "extra-index-url" not in last
    assert "safetensors<0.5" in last and "nvidia-cudnn-cu11==8" in last
    assert "added by setup.sh" in (copy / ".venv/bin/activate").read_text()
    assert run_setup(copy, cards="8.6").returncode == 0 and (copy / "asked").read_text() == asked


def test_setup_says_what_was_tried_where_nothing_works(copy):
    (copy / "broken").write_text("paddlepaddle-gpu\n")
    done = run_setup(copy, cards="7.5")
    assert done.returncode == 1
    tried = "paddlepaddle-gpu==3.3.1 (cu126), paddlepaddle-gpu==3.3.1 (cu118), paddlepaddle-gpu==2.6.2"
    remedy = "see the lines above, and docs/install.md; to use the CPU: export CUDA_VISIBLE_DEVICES="
    assert done.stderr.splitlines()[-1] == f"error: could not set up {tried}; {remedy}"
    assert not (copy / ".venv/complete").exists()


def test_setup_of_a_card_that_fails_does_not_leave_a_cpu_environment_that_seems_complete(copy):
    run_setup(copy)
    (copy / "cut").touch()  # no index is reached
    assert run_setup(copy, cards="8.6").returncode == 1
    (copy / "cut").unlink()
    done = run_setup(copy)
    assert done.returncode == 0 and "installing paddlepaddle==3.3.1" in done.stdout


@pytest.mark.parametrize(
    "script, said",
    [
        ("echo NVIDIA-SMI has failed because it could not talk; exit 9", "none"),
        ("echo No devices were found", "none"),
        ("echo '[N/A]'", "none"),
        ("echo", "none"),
        ("printf '8.6\\r\\n'", "8.6"),  # line ends of Windows
    ],
)
@pytest.mark.parametrize("caller", ["set -euo pipefail; ", ""])
def test_what_nvidia_smi_complains_of_is_no_card(tmp_path, script, said, caller):
    folder = stand_in(tmp_path / "bin", "nvidia-smi", script).parent
    path = f"{folder}:{os.environ['PATH']}"
    done = bash(f'{caller}. ./setup.sh; query_cards compute_cap || echo "none"', PATH=path)
    assert done.stdout == f"{said}\n"


@pytest.mark.parametrize("card, driver", [("8.6", "390.5"), ("12.0", "535.104.05"), ("5.2", "580.1")])
def test_setup_refuses_a_card_for_which_there_is_no_build(copy, card, driver):
    done = run_setup(copy, cards=card, driver=driver)
    assert done.returncode == 2 and not (copy / "asked").exists()
    [line] = done.stderr.splitlines()
    assert f"capability {card} with driver {driver}" in line and "export CUDA_VISIBLE_DEVICES=" in line
    assert run_setup(copy, cards=card, driver=driver, CUDA_VISIBLE_DEVICES="").returncode == 0


OLD_DRIVER = """case "$*" in
    *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
    *driver*) echo 470.57.02 ;;
    *) echo 0 ;;
esac"""


def test_setup_asks_the_driver_where_nvidia_smi_does_not_know_the_capability(copy):
    stand_in(copy / "path", "nvidia-smi", OLD_DRIVER)
    path = f"{copy / 'path'}:{os.environ['PATH']}"
    asked = bash("set -euo pipefail; . ./setup.sh; ask_driver() { echo 7.5; }; query_cards compute_cap", PATH=path)
    assert asked.stdout == "7.5\n", asked.stderr
    done = bash(f'cd "{copy}" && bash setup.sh', PATH=path)  # there is no driver
    assert done.returncode == 2 and not (copy / "asked").exists()
    [line] = done.stderr.splitlines()
    assert "error: neither nvidia-smi nor the driver tells the compute capability of the card" in line


def test_the_older_paddle_finds_libraries_whose_names_have_a_version(tmp_path):
    folder = tmp_path / "a .so. folder/lib/python3.10/site-packages/nvidia/cudnn/lib"
    folder.mkdir(parents=True)
    for name in ("libcudnn.so.8", "libcudnn_ops_infer.so.8"):
        (folder / name).write_text(name)
    (tmp_path / "a .so. folder/bin").mkdir()
    command = f'. ./setup.sh; build=paddlepaddle-gpu==2.6.2 venv="{tmp_path}/a .so. folder"; add_cuda_libraries'
    for _ in range(2):  # an environment that is kept, too
        done = bash(f"set -euo pipefail; {command}")
        assert done.returncode == 0, done.stderr
        assert {path.name: path.read_text() for path in folder.glob("*.so")} == {
            "libcudnn.so": "libcudnn.so.8",
            "libcudnn_ops_infer.so": "libcudnn_ops_infer.so.8",
        }
    assert (tmp_path / "a .so. folder/bin/activate").read_text().count("added by setup.sh") == 1


def test_setup_for_the_older_paddle_has_its_own_environment(copy):
    done = run_setup(copy, PADDLE="2.6.2")
    assert done.returncode == 0 and "paddlepaddle==2.6.2" in done.stdout and ".venv-2.6.2" in done.stdout
    assert run_setup(copy, PADDLE="1.8").returncode == 2


def test_every_requirement_is_used_or_says_why_it_is_there():
    for line in (ROOT / "requirements.txt").read_text().splitlines()[1:]:
        name = line.split("#")[0].split("=")[0].split("<")[0].split(">")[0].strip()
        imported = {"Pillow": "PIL"}.get(name, name)
        used = any(imported in path.read_text() for path in [*ROOT.glob("*.py"), *ROOT.glob("dreambooth/**/*.py")])
        assert used or "#" in line or name == "paddlepaddle", name


@pytest.mark.parametrize("code", [0, 3])
def test_run_multi_says_what_the_launcher_no_longer_shows(tmp_path, code):
    fake = tmp_path / "python"
    logged = 'while [ "$1" != --log_dir ]; do shift; done; echo "stopped by a signal after step 3" >"$2/workerlog.0"'
    logged += '; echo "HF_TOKEN=secret" >"$2/envlog.0"'  # as the launcher does
    fake.write_text(f"#!/bin/sh\n{logged}\nexit {code}\n")
    fake.chmod(0o755)
    (tmp_path / "logs").mkdir()
    done = bash("bash run_multi.sh", PYTHON=str(fake), MODEL_NAME="m", LAUNCH_LOG=str(tmp_path / "logs"))
    assert done.returncode == code
    said = f"stopped by a signal after step 3\nthe output of each process is in {tmp_path / 'logs'}\n"
    assert done.stderr.endswith(said) == (code != 0)
    assert not (tmp_path / "logs/envlog.0").exists()
