"""The files of learned words."""

import numpy as np
import pytest

from dreambooth.files import embeddings, safetensors
from dreambooth.system.errors import BadInput

VECTORS = {"<sks>": np.arange(4, dtype=np.float32), "<小黑>": np.ones(4, np.float32)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[word], expected[word]) for word in expected)


def test_a_word_comes_back_and_its_file_has_the_name_that_the_libraries_look_for(tmp_path):
    assert not embeddings.is_in(tmp_path)
    one = {"<sks>": VECTORS["<sks>"]}
    embeddings.write(tmp_path, one, [4])
    assert [path.name for path in embeddings.files_in(tmp_path)] == ["learned_embeds.safetensors"]
    assert embeddings.is_in(tmp_path)
    assert_equal(embeddings.read(tmp_path, "--model_path"), one)
    [stored] = safetensors.Reader(tmp_path / "learned_embeds.safetensors").values()
    assert stored.shape == (1, 4)  # as diffusers writes it


def test_several_words_have_a_file_each_as_the_libraries_read_one_from_a_file(tmp_path):
    embeddings.write(tmp_path, VECTORS, [4])
    names = [path.name for path in embeddings.files_in(tmp_path)]
    assert names == ["learned_embeds-sks.safetensors", "learned_embeds-小黑.safetensors"]
    assert sorted(embeddings.file_names(VECTORS).values()) == names
    assert_equal(embeddings.read(tmp_path, "--model_path"), VECTORS)


def test_a_word_for_two_text_encoders_has_both_vectors_in_its_file(tmp_path):
    """Under the names that web UIs and diffusers give those of Stable Diffusion XL."""
    one = {"<sks>": VECTORS["<sks>"]}
    embeddings.write(tmp_path, one, [1, 3])
    [path] = embeddings.files_in(tmp_path)
    stored = {name: each.tolist() for name, each in safetensors.Reader(path).items()}
    assert stored == {"clip_l": [[0.0]], "clip_g": [[1.0, 2.0, 3.0]]}
    assert_equal(embeddings.read(tmp_path, "--model_path"), one)
    # a file of another tool has the word in its name alone
    safetensors.write(tmp_path / "learned_embeds-小黑.safetensors", {name: np.array(stored[name]) for name in stored})
    path.unlink()
    assert_equal(embeddings.read(tmp_path, "--model_path"), {"<小黑>": one["<sks>"]})
    safetensors.write(tmp_path / "learned_embeds-小黑.safetensors", {"clip_l": np.ones(2), "clip_g": np.ones((2, 2))})
    with pytest.raises(BadInput, match="clip_g is not one vector"):
        embeddings.read(tmp_path, "--model_path")


@pytest.mark.parametrize("vector", [[1.0, 2.0], [[1.0, 2.0]]])
def test_a_vector_may_have_a_row(tmp_path, vector):
    safetensors.write(tmp_path / "learned_embeds.safetensors", {"<a>": np.array(vector, np.float16)})
    [found] = embeddings.read(tmp_path, "--lora").values()
    assert found.dtype == np.float32 and found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "vector, fault",
    [
        (np.ones((2, 4), np.float32), "<a> is not one vector"),
        (np.ones((1, 1, 4), np.float32), "<a> is not one vector"),
        (np.ones(4, np.int64), "<a> is not one vector"),
        (np.array(1.0, np.float32), "<a> is not one vector"),
        (np.array([1, np.nan], np.float32), "<a> has values that are no numbers"),
    ],
)
def test_what_is_no_word_is_refused(tmp_path, vector, fault):
    safetensors.write(tmp_path / "learned_embeds.safetensors", {"<a>": vector})
    with pytest.raises(BadInput, match=f"^--lora .*learned_embeds.safetensors: it can't be read .{fault}"):
        embeddings.read(tmp_path, "--lora")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"12345678{")
    with pytest.raises(BadInput, match="^--model_path .*it can't be read"):
        embeddings.read(tmp_path, "--model_path")
