"""Loading a model: in float32, without the safety checker, with another tokenizer; or its tokenizer alone."""

import shutil

import pytest
from support.families import load_family

from dreambooth.models import loading
from dreambooth.system.errors import BadInput


@pytest.mark.parametrize("model", ["twin", "bert_twin", "unidiffuser_twin"])
def test_the_tokenizer_alone_is_the_one_that_reads_the_prompts(model, request):
    folder = request.getfixturevalue(model)
    alone = loading.load_tokenizer(loading.Source(str(folder)))
    assert alone("a sks dog").input_ids == load_family(folder).tokenizer("a sks dog").input_ids


def test_what_can_not_be_loaded_is_told_in_one_line(twin, tmp_path):
    shutil.copytree(twin, tmp_path / "copy")
    (tmp_path / "copy/unet/config.json").write_text("{")
    with pytest.raises(BadInput, match=rf"^--model_path {tmp_path}/copy: it can't be loaded \(.*\)$"):
        loading.load_family(loading.Source(str(tmp_path / "copy")), "--model_path")
