"""The sizes of a model, read before it is loaded, are those of the loaded one."""

import shutil

import pytest
from support.families import load_family
from support.twins import BUILDERS

from dreambooth.config.sections import ModelSettings
from dreambooth.run.memory import sizes


def read(folder):
    return sizes.read(ModelSettings(pretrained_model_name_or_path=str(folder)))


@pytest.mark.parametrize("pipeline", [*BUILDERS, "bert"])
def test_weights_are_counted_from_the_files(pipeline, bert_twin, tmp_path):
    folder = bert_twin if pipeline == "bert" else BUILDERS[pipeline](tmp_path / "twin")
    found = read(folder)
    networks = load_family(folder).networks()
    # a file of T5 has its table of words twice, and one of Stable Diffusion 3 the table of its places
    assert found.weights == {
        part: sum(each.size for each in net.state_dict().values()) for part, net in networks.items()
    }
    for part in found.facts.learners:
        chain = found.pieces(part, (32, 32), 2)
        assert sum(piece.weights for piece in chain) == found.weights[part]


def test_a_folder_of_another_kind_is_unknown(twin, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(twin, folder)
    (folder / "vae" / "config.json").write_text("[]")
    found = read(folder)
    assert found is None or found.settings["vae"] == {}
