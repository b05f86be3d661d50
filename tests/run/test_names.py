"""Names of drawn pictures."""

from PIL import Image

from dreambooth.run.drawings import names


def test_a_name_reads_like_its_prompt_in_any_script():
    assert names.slug("a photo, of sks dog!") == "a-photo-of-sks-dog"
    assert names.slug("一只狗 在雪地") == "一只狗-在雪地"
    assert names.slug("../../etc/passwd") == "etc-passwd" and names.slug("?!") == "picture"
    assert len(names.slug("狗" * 1000).encode()) <= 160


def test_a_picture_of_other_settings_keeps_its_name(tmp_path):
    path = tmp_path / "a.png"
    picture = Image.new("RGB", (4, 4))
    assert names.free(path, {"seed": 0}) == path
    names.save(picture, path, {"seed": 0})
    assert names.free(path, {"seed": 0}) == path
    assert names.free(path, {"seed": 1}) == tmp_path / "a~2.png"
    names.save(picture, tmp_path / "a~2.png", {"seed": 1})
    assert names.free(path, {"seed": 2}) == tmp_path / "a~3.png"
    path.write_bytes(b"no picture")
    assert names.free(path, {"seed": 0}) == tmp_path / "a~3.png"


def test_a_model_whose_name_is_no_utf_8_has_its_pictures(tmp_path):
    text = {"model": "run-\udcff"}
    names.save(Image.new("RGB", (4, 4)), tmp_path / "a.png", text)
    assert names.free(tmp_path / "a.png", text) == tmp_path / "a.png"
