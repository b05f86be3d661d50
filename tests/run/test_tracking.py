"""The log of both writers, read back."""

import io
import json
import re
import struct
import threading
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image
from support.finished_runs import make_run

from dreambooth.data import picture_files
from dreambooth.run import tracking
from dreambooth.run.report import progress

both_writers = pytest.mark.parametrize("writer_type", ["visualdl", "tensorboard"])


def read_visualdl(path):
    from visualdl import LogReader

    reader = LogReader(file_path=str(path))
    read = {"scalar": lambda value: value.value, "image": lambda value: value.image.encoded_image_string,
            "text": lambda value: value.text.encoded_text_string}  # fmt: skip
    return [
        (kind, tag, value.id, get(value))
        for kind, get in read.items()
        for tag in reader.get_tags().get(kind, [])
        for value in reader.get_data(kind, tag)
    ]


def read_tensorboard(path):
    """The events of a file: each is its length in 8 bytes, 4 bytes of checksum, itself, 4 bytes of checksum."""
    from tensorboardX.proto import event_pb2

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                found.append(("scalar", value.tag, event.step, value.simple_value))
            elif kind == "image":
                found.append(("image", value.tag, event.step, value.image.encoded_image_string))
            else:
                text = value.tensor.string_val[0].decode()
                found.append(("text", value.tag.removesuffix("/text_summary"), event.step, text))
    return found


def read(folder, writer_type):
    """(kind, name, step, value) of all that a log folder holds."""
    [path] = folder.iterdir()
    return (read_visualdl if writer_type == "visualdl" else read_tensorboard)(path)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@both_writers
def test_numbers_are_read_back(tmp_path, writer_type):
    tracker = tracking.open_tracker(tmp_path, writer_type, enabled=True)
    tracker.add_scalars({"loss": 0.25, "learning_rate": 5e-6}, 1)
    tracker.add_scalars({"loss": paddle.to_tensor(0.125)}, 7)
    tracker.close()
    found = {(name, step): value for kind, name, step, value in read(tmp_path, writer_type) if kind == "scalar"}
    assert found == pytest.approx(
        {("training/loss", 1): 0.25, ("training/learning_rate", 1): 5e-6, ("training/loss", 7): 0.125}
    )


@both_writers
@pytest.mark.parametrize("prompt", ["validation", "a photo of sks dog", '50% off, he said: "what?" & left', "一只狗"])
def test_pictures_of_any_prompt_are_read_back(tmp_path, writer_type, prompt):
    numbers = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3), dtype=np.uint8)
    tracker = tracking.open_tracker(tmp_path, writer_type, enabled=True)
    tracker.add_pictures(prompt, [Image.fromarray(each) for each in numbers], 3)
    tracker.close()
    found = [each for each in read(tmp_path, writer_type) if each[0] == "image"]
    assert [(step, name.rsplit("/")[-1]) for _, name, step, _ in found] == [(3, "0"), (3, "1")]
    for (_, _, _, png), wanted in zip(found, numbers):
        assert np.array_equal(pixels(png), wanted)


@both_writers
def test_a_grey_picture_is_logged_in_grey(tmp_path, writer_type):
    tracker = tracking.open_tracker(tmp_path, writer_type, enabled=True)
    tracker.add_pictures("grey", [Image.new("L", (4, 6), 77)], 0)
    tracker.close()
    [(_, _, _, png)] = [each for each in read(tmp_path, writer_type) if each[0] == "image"]
    assert np.array_equal(pixels(png), np.full((6, 4, 3), 77))


@both_writers
def test_text_is_read_back(tmp_path, writer_type):
    tracker = tracking.open_tracker(tmp_path, writer_type, enabled=True)
    tracker.add_text("arguments", "learning_rate 5e-6\nprompt 一只狗")
    tracker.close()
    assert ("arguments", "learning_rate 5e-6\nprompt 一只狗") in [
        (name, value) for kind, name, _, value in read(tmp_path, writer_type) if kind == "text"
    ]


@both_writers
@pytest.mark.parametrize("left", [0, 4, 8, 16, 64])
def test_a_full_disk_ends_the_log_with_one_warning_and_the_run_goes_on(small_disk, writer_type, left, capfd):
    """The queue of a writer holds ten records: a dead thread behind it would stop the run at the eleventh."""
    small_disk.fill(left * 1024)

    def log():
        tracker = tracking.open_tracker(small_disk / "logs", writer_type, enabled=True)
        for step in range(30):
            tracker.add_scalars({"loss": 0.25, "learning_rate": 5e-6}, step)
            tracker.add_text("arguments", "x" * 10_000)
            tracker.add_pictures("prompt", [Image.effect_noise((64, 64), 100)] * 4, step)
        tracker.close()

    thread = threading.Thread(target=log, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    said = capfd.readouterr()
    assert said.err == f"warning: {small_disk}/logs: the disk is full; the log ends here, and the run goes on\n"
    assert "Warning" not in said.out
    small_disk.fill(2**20)
    tracker = tracking.open_tracker(small_disk / "another", writer_type, enabled=True)
    tracker.add_scalars({"loss": 0.5}, 3)
    tracker.close()
    assert ("scalar", "training/loss", 3, 0.5) in read(small_disk / "another", writer_type)


@both_writers
def test_a_log_folder_that_cannot_be_made_is_a_warning(tmp_path, writer_type, capfd):
    (tmp_path / "logs").write_text("")
    tracker = tracking.open_tracker(tmp_path / "logs/inside", writer_type, enabled=True)
    tracker.add_scalars({"loss": 0.25}, 1)
    assert capfd.readouterr().err.count("the log ends here") == 1


def test_a_disabled_tracker_writes_nothing(tmp_path):
    tracker = tracking.open_tracker(tmp_path / "logs", "visualdl", enabled=False)
    tracker.add_scalars({"loss": 0.25}, 1)
    tracker.add_pictures("prompt", [Image.new("RGB", (4, 4))], 1)
    tracker.add_text("arguments", "text")
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_the_speed_is_pictures_by_seconds_since_the_last_call(monkeypatch):
    clock = iter([100.0, 102.0, 103.0, 107.0])
    monkeypatch.setattr(tracking, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    speed = tracking.Speed(8)
    rates = [speed.measure(step)["pictures_per_second"] for step in (1, 2, 12)]
    assert rates == [4.0, 8.0, 20.0]  # 1 x 8 / 2, 1 x 8 / 1, 10 x 8 / 4


def test_the_first_call_counts_all_steps_so_far(monkeypatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(tracking, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert tracking.Speed(8).measure(10)["pictures_per_second"] == 40.0


def test_the_memory_includes_paddle_and_large_arrays():
    assert 0.1 < tracking.Speed(8).measure(1)["memory_gb"] < 64
    held = np.ones(2**28, dtype=np.uint8)  # 0.27 GB, touched
    assert tracking._peak_memory() >= held.nbytes


@both_writers
def test_the_command_to_watch_names_the_folder(writer_type):
    assert tracking.watch_command("out/logs", writer_type) == f"{writer_type} --logdir out/logs"
    assert tracking.watch_command("my out/logs", writer_type) == f"{writer_type} --logdir 'my out/logs'"


def test_the_summary_smooths_losses_and_counts_the_steps_of_this_start(monkeypatch, capsys):
    monkeypatch.setattr(tracking.time, "perf_counter", iter([0, 2, 7, 52, 1000]).__next__)
    summary = tracking.Summary(510, 10)
    for step in range(11, 511):
        summary.add({"loss": float(step % 2)}, step)
    assert capsys.readouterr().out == "time      about 8 min for the 494 updates to come\n"
    text = str(summary)
    assert text.startswith("52 s for 500 updates; smoothed loss 0.") and "; peak memory " in text
    assert 0.45 < float(re.search(r"loss (\S+);", text)[1]) < 0.55
    assert str(summary).startswith("17 min for 500 updates")


@pytest.mark.parametrize(
    "seconds, text", [(3, "3 s"), (299, "299 s"), (300, "5 min"), (17999, "300 min"), (36000, "10.0 hours")]
)
def test_a_duration_is_in_a_unit_that_people_read(seconds, text):
    assert tracking._duration(seconds) == text


def test_numbers_also_go_to_the_file_of_the_report(tmp_path):
    tracker = tracking.open_tracker(tmp_path / "logs", "visualdl", True, str(tmp_path / "out"))
    tracker.add_scalars({"loss": paddle.to_tensor(0.25)}, 1)
    tracker.add_scalars({"score": 0.5}, 1, "validation")
    tracker.close()
    assert progress.read(tmp_path / "out") == [(1, "training", {"loss": 0.25}), (1, "validation", {"score": 0.5})]


def test_settings_stand_beside_the_figures_that_they_are_compared_by(tmp_path):
    from visualdl import LogReader

    tracker = tracking.open_tracker(tmp_path, "visualdl", enabled=True)
    tracker.add_settings({"learning_rate": 5e-6, "optimizer": "adamw", "updates": 400}, ["training/loss"])
    tracker.add_scalars({"loss": 0.25}, 1)
    tracker.close()
    [path] = tmp_path.iterdir()
    [found] = [each.hparam for each in LogReader(file_path=str(path)).get_data("hyper_parameters", "hparam")]
    values = {each.name: each.float_value or each.string_value or each.int_value for each in found.hparamInfos}
    assert values == {"learning_rate": pytest.approx(5e-6), "optimizer": "adamw", "updates": 400}
    assert [each.name for each in found.metricInfos] == ["training/loss"]


def test_tensorboard_has_the_settings_in_the_same_file(tmp_path):
    tracker = tracking.open_tracker(tmp_path, "tensorboard", enabled=True)
    tracker.add_settings({"learning_rate": 5e-6, "optimizer": "adamw"}, ["training/loss"])
    tracker.close()
    [path] = tmp_path.iterdir()
    assert path.is_file() and b"_hparams_/session_start_info" in path.read_bytes()


def test_a_log_begins_with_the_record_the_settings_and_the_subject(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    found, _ = picture_files.find_pictures(str(tmp_path / "pictures"), "--instance_data_dir")
    tracker = tracking.open_tracker(tmp_path / "logs", "visualdl", enabled=True)
    tracking.log_beginning(tracker, record, [found[0]] * 20)
    tracker.close()
    written = read(tmp_path / "logs", "visualdl")
    assert len([name for kind, name, *_ in written if kind == "image"]) == 8
    [text] = [value for kind, name, _, value in written if kind == "text"]
    assert json.loads(text)["flags"]["seed"] == 0
