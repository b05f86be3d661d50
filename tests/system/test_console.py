"""A command in the terminal: exit codes, one-line errors, one voice of many processes, signals."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT, python

from dreambooth.system import console, processes
from dreambooth.system.console import StopRequest
from dreambooth.system.errors import BadInput, Stopped


def fail(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, line",
    [
        (BadInput("--seed -1: must be at least 0"), 2, "error: --seed -1: must be at least 0\n"),
        (Stopped("stopped after step 3", code=143), 143, "stopped after step 3\n"),
        (OSError(errno.EACCES, "Permission denied", "/there"), 2, "error: /there: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left", "/there"), 1, "error: /there: the disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 1, f"error: {console._OUT_OF_MEMORY}\n"),
        (RuntimeError("(ResourceExhausted) Fail to alloc memory of 9 size"), 1, f"error: {console._OUT_OF_MEMORY}\n"),
        (RuntimeError("Out of memory error on GPU 0."), 1, f"error: {console._OUT_OF_MEMORY}\n"),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as end:
        console.run_command(fail(error), [])
    assert end.value.code == code and capsys.readouterr() == ("", line)


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run_command(fail(ZeroDivisionError()), [])
    with pytest.raises(OSError, match="no file"):
        console.run_command(fail(OSError("no file of a name")), [])


def test_verbose_shows_the_cause_of_bad_input():
    def main(argv):
        raise BadInput("--model x: it can't be loaded") from ValueError("the cause")

    with pytest.raises(BadInput) as error:
        console.run_command(main, ["--verbose"])
    assert str(error.value.__cause__) == "the cause"
    with pytest.raises(SystemExit):
        console.run_command(main, [])


def test_a_command_that_succeeds_gets_its_arguments_and_returns():
    seen = []
    console.run_command(seen.append, ["--flag"])
    assert seen == [["--flag"]]


def test_messages_warnings_and_bars_come_from_the_first_process_only(capsys, monkeypatch):
    for rank, said in (("0", ("hello\n", "warning: careful\n")), ("1", ("", ""))):
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        console.print_message("hello")
        console.warn("careful")
        assert capsys.readouterr() == said
        assert list(console.progress_bar(range(3), desc="Drawing")) == [0, 1, 2]
        assert ("Drawing" in capsys.readouterr().err) is (rank == "0")


def test_an_error_of_another_process_names_it_and_lets_the_first_one_speak_before(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    for rank, name in (("0", ""), ("2", " in process 2")):
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        console.print_error("--seed -1: must be at least 0")
        assert capsys.readouterr().err == f"error{name}: --seed -1: must be at least 0\n"
    assert waited == [0, 2 * processes._SECONDS_TO_GIVE_WAY]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:pass@word@hub.org/x answers 401", "https://***@hub.org/x answers 401"),
        ("GET /x?a=b&X-Amz-Signature=abc&Expires=3 and more", "GET /x?a=b&X-Amz-Signature=***&Expires=3 and more"),
        ("(http://cdn/x?token=abc)", "(http://cdn/x?token=***)"),
        (f"Bearer hf_{'aB3' * 12}!", "Bearer hf_***!"),
        ("my-own-token was sent", "*** was sent"),
        ("/data/hf_models/sd, a?b=c, me@home.org, https://hub.org/a@b", None),
    ],
)
def test_passwords_and_tokens_are_not_shown(text, shown, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    shown = shown or text
    assert console.without_secrets(text) == shown
    console.print_message(text)
    console.warn(text)
    console.print_error(text)
    assert capsys.readouterr() == (f"{shown}\n", f"warning: {shown}\nerror: {shown}\n")


def test_a_traceback_shows_no_password():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth.system import console\n"
        "def main(argv): raise RuntimeError('no answer of http://me:secret@hub')\n"
        "console.run_command(main)\n"
    )
    done = python("-c", code)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: no answer of http://***@hub\n")
    assert done.stderr.startswith("Traceback")


def test_a_name_with_a_line_break_stays_in_one_line(capsys):
    console.print_error("--model_path a\nb: there is no such folder")
    assert capsys.readouterr().err == "error: --model_path a\\nb: there is no such folder\n"


def test_a_character_that_the_terminal_lacks_is_printed_as_its_code():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth.system import console\n"
        "console.run_command(lambda argv: print('狗'))\n"
    )
    done = python("-c", code, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == "\\u72d7\n"


def test_the_python_command_starts_this_python():
    line = [console.python_command(), "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(line, capture_output=True, text=True).stdout.strip() == sys.prefix


def test_a_script_command_starts_a_script_of_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(console.script_command("infer.py")[1]) == ROOT / "infer.py"
    monkeypatch.chdir(ROOT)
    assert console.script_command("infer.py")[1] == "infer.py"


def test_a_path_is_relative_below_the_current_folder_and_else_absolute(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert console.relative_path(tmp_path / "here/a/b.png") == "a/b.png"
    assert console.relative_path(tmp_path / "there") == str(tmp_path / "there")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_notes_a_signal_and_restores_the_handlers(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_first_signal_says_what_follows_and_the_second_nothing(capfd):
    with contextlib.suppress(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    said = "stopping after this step, with a checkpoint; a second Ctrl-C ends at once, without one"
    assert capfd.readouterr().err.strip() == said


def test_a_second_interrupt_ends_the_process_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
