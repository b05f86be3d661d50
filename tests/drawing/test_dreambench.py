"""The paper's data set, read, and the table of its figures."""

import pytest

from dreambooth.drawing.instruments import dreambench
from dreambooth.system.errors import BadInput

LIST = """Classes

subject_name,class
red_ball,ball
dog,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} on a table'.format(unique_token, class_token),
"a {0} {1} in grandma's room".format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in a hat'.format(unique_token, class_token)
]
"""


@pytest.fixture
def data(tmp_path):
    for name in ("red_ball", "dog"):
        (tmp_path / name).mkdir()
    (tmp_path / dreambench.LIST).write_text(LIST)
    return tmp_path


def test_live_subjects_have_their_own_prompts(data):
    ball, dog = dreambench.read(str(data))
    assert (ball.name, ball.class_name, ball.folder) == ("red_ball", "ball", data / "red_ball")
    assert ball.prompts("sks") == ["a sks ball on a table", "a sks ball in grandma's room"]
    assert dog.prompts("<sks>") == ["a <sks> dog in a hat"]


def test_a_whole_copy_of_the_repository_is_read_too(data, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    data.rename(whole / "dataset")
    assert [each.name for each in dreambench.read(str(whole))] == ["red_ball", "dog"]
    (whole / "dataset").rename(data)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "there is no prompts_and_classes.txt; give a copy of github.com/google/dreambooth"),
        ("", "it is not the list of classes and prompts"),
        (LIST.replace("prompt_list", "list"), "it is not the list of classes and prompts"),
        (LIST.replace("'a {0} {1} in a hat'", "hat"), "it is not the list of classes and prompts"),
        (LIST.replace("dog,dog", ""), None),
        (LIST.replace("dog,dog", "cat,cat"), "the folder of its subject cat is missing"),
        (LIST.replace("dog,dog", "../dog,dog"), "the folder of its subject ../dog is missing"),
        (LIST.replace("dog,dog", ",dog"), "the folder of its subject  is missing"),
        (b"\xff\xfe\x00", "it can't be read"),
    ],
)
def test_what_is_not_the_set_is_refused(data, text, message):
    path = data / dreambench.LIST
    if text is None:
        path.unlink()
    elif isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text)
    if text is not None and message is None:
        assert len(dreambench.read(str(data))) == 1
        return
    with pytest.raises(BadInput, match=f"^--data .*{message}"):
        dreambench.read(str(data))


def test_the_table_has_the_published_figures_beside_these():
    found = dreambench.means([{"DINO": None, "CLIP-I": 0.5, "CLIP-T": 0.25}, {"CLIP-I": 0.7, "CLIP-T": 0.35}])
    assert found == {"DINO": None, "CLIP-I": pytest.approx(0.6), "CLIP-T": pytest.approx(0.3)}
    head, row, *rest = dreambench.table({"this run": found}, 2).splitlines()
    assert head.split() == ["DINO", "CLIP-I", "CLIP-T"]
    assert row.split() == ["this", "run", "-", "0.600", "0.300"]
    assert rest[0].split() == ["published:", "DreamBooth", "0.668", "0.803", "0.305"]
    assert rest[-2].split() == ["published:", "real", "pictures", "0.774", "0.885", "-"]
    assert rest[-1].startswith("Means over 2 subjects.")
