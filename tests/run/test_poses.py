"""Drawings by several poses."""

from types import SimpleNamespace

from PIL import Image

from dreambooth.run.drawings import poses


def test_all_is_drawn_anew_for_each_pose():
    shown = []
    drawn = poses.draw(SimpleNamespace(show=shown.append), ["sitting", "running"], lambda: iter([shown[-1]] * 2))
    assert list(drawn) == ["sitting", "sitting", "running", "running"]


def test_a_pose_stands_before_its_pictures():
    pictures = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(4)]
    several, count = poses.with_poses(pictures, [Image.new("RGB", (4, 4), "blue")] * 2, 1)
    assert count == 3 and [each.getpixel((0, 0))[0] for each in several] == [0, 0, 1, 0, 2, 3]
    assert {each.size for each in several} == {(8, 8)}
    assert poses.with_poses(pictures, [], 2) == (pictures, 2)
