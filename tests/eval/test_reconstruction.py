"""Sheets show every row in order, name it, and mark what borrows from the truth."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vmae_jax.eval import reconstruction
from vmae_jax.types import Pictures

BORROWED = "reconstructed, true mean and std"


def pictures(
    b: int = 3, t: int = 8, h: int = 32, w: int = 32, c: int = 3, borrowed: tuple[str, ...] = (BORROWED,)
) -> Pictures:
    shape = (b, t, h, w, c)
    time = np.broadcast_to(np.arange(t, dtype=np.uint8)[None, :, None, None, None], shape)
    rows = {
        "original": 100 + time,
        "masked": np.full(shape, 128, np.uint8),
        BORROWED: 200 + time,
        "reconstructed": 40 + time,
    }
    return Pictures.of({name: jnp.asarray(row) for name, row in rows.items()}, borrowed=borrowed)


def colours(sheet: Image.Image) -> set[int]:
    """The grey levels that fill at least a frame."""
    array = np.asarray(sheet)
    grey = array[(array[..., 0] == array[..., 1]) & (array[..., 1] == array[..., 2])][:, 0]
    levels, counts = np.unique(grey, return_counts=True)
    return {int(level) for level, count in zip(levels, counts, strict=True) if count >= 32 * 32}


def test_rows_frames_and_clips():
    sheet = reconstruction.draw(pictures(), frames=4, clips=2, size=32)
    # 0, 2, 5, 7 of 8: first and last are always there
    wanted = {128} | {base + time for base in (100, 200, 40) for time in (0, 2, 5, 7)}
    assert colours(sheet) == wanted
    one = reconstruction.draw(pictures(), frames=4, clips=1, size=32)
    assert one.width == sheet.width
    assert 1.9 < sheet.height / one.height < 2.1
    many = reconstruction.draw(pictures(b=1, t=2), frames=8, clips=9, size=32)
    assert colours(many) == {128, 100, 101, 200, 201, 40, 41}


def test_strips_are_drawn_below_over_the_whole_width():
    plain, strip = pictures(), np.full((3, 16, 40, 1), 77, np.uint8)
    made = dataclasses.replace(plain, strips=(strip,), strip_names=("audio: original",))
    sheet, without = (reconstruction.draw(one, frames=4, clips=2, size=32) for one in (made, plain))
    assert sheet.width == without.width
    line = (without.height - sheet.height) // -2
    assert 32 < line < 32 + 40  # a strip is as high as a frame, with its name above, in each of two blocks
    array = np.asarray(sheet)[..., 0]
    assert ((array == 77).sum(axis=1) >= 4 * 32 + 3 * 3).sum() == 2 * 32  # rows of pixels that are all strip


def test_order_is_that_of_the_rows():
    sheet = np.asarray(reconstruction.draw(pictures(b=1), frames=1, clips=1, size=32))
    column = sheet[:, 20, 0]
    places = [int(np.argmax(column == level)) for level in (100, 128, 200, 40)]
    assert places == sorted(places)


def test_only_borrowing_rows_carry_the_note():
    def amber(sheet):
        array = np.asarray(sheet).astype(int)
        return int(((array[..., 0] > 200) & (array[..., 2] < 130) & (array[..., 1] > 120)).sum())

    assert amber(reconstruction.draw(pictures(), size=32)) > 50
    assert amber(reconstruction.draw(pictures(borrowed=()), size=32)) == 0


@pytest.mark.parametrize(("side", "drawn"), [(32, 128), (64, 128), (112, 112), (224, 112), (160, 160)])
def test_frames_are_drawn_at_a_readable_size(side, drawn):
    sheet = reconstruction.draw(pictures(b=1, t=2, h=side, w=side), frames=2, clips=1)
    row = np.asarray(sheet)
    assert int((row[:, 16 + 5, 0] == 100).sum()) == drawn


def test_grey_videos():
    assert colours(reconstruction.draw(pictures(c=1), frames=1, clips=1, size=32)) == {100, 128, 200, 40}


def test_files(tmp_path):
    path = reconstruction.save(pictures(), tmp_path / "media" / "reconstruction_10.png", frames=3)
    with Image.open(path) as image:
        assert image.format == "PNG"
        about = json.loads(image.text[reconstruction.KEY])
    assert about == {"rows": ["original", "masked", BORROWED, "reconstructed"], "borrowed": [BORROWED]}
    moving = jax.tree.map(lambda video: video * 25, pictures())  # frames that hardly differ would be merged
    for suffix in ("webp", "gif"):
        file = reconstruction.animate(moving, tmp_path / f"a.{suffix}", clips=2, size=64)
        with Image.open(file) as image:
            assert image.n_frames == 8
            assert image.width > 4 * 64
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.gif", "a.webp", "media"]


def test_bad_pictures(tmp_path):
    good = pictures()
    with pytest.raises(ValueError, match="no row"):
        reconstruction.draw(Pictures.of({}))
    with pytest.raises(ValueError, match="row 'masked' is float32"):
        reconstruction.draw(Pictures.of(good.rows | {"masked": good.rows["masked"] / 255.0}))
    with pytest.raises(ValueError, match=r"row 'masked' is uint8\[3, 4"):
        reconstruction.draw(Pictures.of(good.rows | {"masked": good.rows["masked"][:, :4]}))
    with pytest.raises(ValueError, match="frames and clips must be at least 1, got 0 and"):
        reconstruction.draw(good, frames=0)
    with pytest.raises(ValueError, match=r"\.webp or \.gif"):
        reconstruction.animate(good, tmp_path / "a.mp4")


def test_a_sheet_names_its_videos(tmp_path):
    video = np.zeros((2, 2, 16, 16, 3), np.uint8)
    plain = reconstruction.draw(Pictures.of({"original": video}))
    named = reconstruction.draw(Pictures.of({"original": video}), videos=["a.mp4", f"{'long/' * 99}b.mp4", "unseen"])
    assert named.size[0] == plain.size[0], "a long path is shortened, not the sheet widened"
    assert named.size[1] > plain.size[1]
    path = reconstruction.save(Pictures.of({"original": video}), tmp_path / "r.png", videos=["a.mp4", "b.mp4"])
    with Image.open(path) as image:
        assert json.loads(image.text[reconstruction.KEY])["videos"] == ["a.mp4", "b.mp4"]
    path = reconstruction.save(Pictures.of({"original": video}), tmp_path / "views.png", videos=["a.mp4"])
    with Image.open(path) as image:
        assert json.loads(image.text[reconstruction.KEY])["videos"] == ["a.mp4, view 1", "a.mp4, view 2"]
