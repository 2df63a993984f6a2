"""world: the same clips every time, and every stream the same loose and from records."""

import hashlib
import io
import os

import av
import numpy as np
import pytest
from drawn_worlds import RATE, SETTINGS, SMALL, digest
from ml_collections import ConfigDict

from vmae_jax.configs.common import smoke
from vmae_jax.data.opened import open_loader
from vmae_jax.data.synthetic import moving_shapes, world
from vmae_jax.data.synthetic.world_files import sound
from vmae_jax.data.synthetic.world_scene import COLOURS, FORMS
from vmae_jax.spec import ConfigError, build, call


def test_arrays_are_a_function_of_settings_split_and_number():
    """These digests hold on every machine."""
    made, drawn = world.make_world(SETTINGS, "train", 7)
    assert digest(drawn.video, drawn.numbers, drawn.boxes, drawn.seen) == "023ac7369f3c5eec"
    assert digest(sound(made, RATE)) == "f82c6aee96d1d9f0"
    sides = world.make_clip(SETTINGS, "train", 7).sides
    tables = [hashlib.sha256(sides[name].data).hexdigest()[:16] for name in ("subtitles", "boxes", "segments", "imu")]
    assert tables == ["e34ccad527f76e19", "90132fa33339919a", "f655417a45cd2816", "f93cb06866d1ba5a"]
    others = [
        world.make_world(SETTINGS, "test", 7),
        world.make_world(SETTINGS, "train", 8),
        world.make_world(world.settings(**SMALL, seed=1), "train", 7),
    ]
    assert len({digest(drawn.video), *(digest(other.video) for _, other in others)}) == 4


@pytest.mark.parametrize("kind", ["aac", "pcm", "beside"])
def test_files_are_the_same_bytes_again(kind):
    settings = world.settings(**SMALL, sound=kind)
    clip = world.make_clip(settings, "train", 1)
    assert clip == world.make_clip(settings, "train", 1)
    assert set(clip.sides) == set(settings.sides)
    with av.open(io.BytesIO(clip.data)) as file:
        assert len(file.streams.audio) == (kind != "beside")
        assert [stream.codec_context.name for stream in file.streams.audio] == {
            "aac": ["aac"],
            "pcm": ["pcm_s16le"],
        }.get(kind, [])
        assert sum(1 for _ in file.decode(video=0)) == 24


def streams(settings, seconds=1.0):
    """Every stream, as calls of a config."""
    tokenizer = call("data.streams.tokenizers.utf8")
    heard = {"of": "sound"} if settings.get("sound") == "beside" else {}
    return {
        "seconds": call("data.streams.times.seconds"),
        "frames": call("data.streams.times.frames"),
        "audio": call("data.streams.audio", seconds=seconds, rate=RATE, align="start", **heard),
        "text": call("data.streams.text", tokenizer=tokenizer, length=64, random=False),
        "subtitles": call("data.streams.text", tokenizer=tokenizer, length=128),
        "imu": call("data.streams.series", columns=["ax", "ay", "gz"], samples=16),
        "boxes": call("data.streams.boxes", count=2, least=0.0),
        "state": call("data.streams.embeddings", width=7, length=24),
        "masks": call("data.streams.planes", channels=1, interpolation="nearest"),
        "motion": call("data.streams.motion", cell=8),
    }


def loose(folder, settings):
    """A source of loose files."""
    sides = {name: call("data.sides.sidecar", suffix=end) for name, end in world.settings(**settings).sides.items()}
    return call("data.sides.beside", source=call("data.sources.folder", path=str(folder)), sides=sides)


def rows(source, settings, frames=6, **options):
    given = {
        "sampler": call("data.clips.uniform", frames=frames, random=False),
        "transforms": [call("data.transforms.resize", size=32)],
        "streams": streams(settings),
        "global_batch": 3,
        "workers": 1,
        "shuffle": False,
    }
    opened = open_loader(build(call("data.pipeline.loader", source=source, **(given | options)), "loader"))
    with opened.once(rows=range(3)) as batches:
        [batch] = list(batches)
    return [{name: array[row] for name, array in batch.items()} for row in range(3)]


@pytest.mark.parametrize("kind", ["aac", "beside"])
def test_every_stream_is_the_same_from_loose_files_and_from_records(tmp_path, kind):
    settings = {**SMALL, "sound": kind}
    paths = world.write_folder(str(tmp_path / "loose"), 3, world.settings(**settings))
    assert [os.path.basename(path) for path in paths] == [f"train-000000{number}.mp4" for number in range(3)]
    source = call("data.synthetic.world", settings=call("data.synthetic.world.settings", **settings))
    source["directory"] = str(tmp_path)
    files = rows(loose(tmp_path / "loose", settings), settings)
    records = rows(source, settings)
    for found in (files, records):
        found.sort(key=lambda row: row["state"].tobytes())
    for one, other in zip(files, records, strict=True):
        assert all(value for name, value in one.items() if name.endswith("valid"))
        for name in one.keys() - {"index", "seed"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    opened = build(source).open()
    by_key = {opened.fetch(index).key.split("/")[1]: opened.fetch(index) for index in range(3)}
    for number, path in enumerate(paths):
        record = by_key[f"train-000000{number}"]
        front = world.make_world(world.settings(**settings), "train", number)[0].shapes[-1]
        assert record.labels == {"label": number, "form": FORMS.index(front.form)}
        with open(path, "rb") as file:
            assert file.read() == record.data
        with open(path.replace(".mp4", "_segments.csv"), "rb") as file:
            assert file.read() == record.sides["segments"].data


@pytest.mark.parametrize("kind", ["aac", "pcm", "beside"])
def test_the_audio_stream_hears_what_was_made(tmp_path, kind):
    settings = {**SMALL, "silent": 0.0, "sound": kind}
    made = world.settings(**settings)
    world.write_folder(str(tmp_path), 3, made)
    heard, audio = 0, {"audio": streams(settings)["audio"]}
    found = rows(loose(tmp_path, settings), settings, frames=24, streams=audio)
    for number, row in enumerate(found):
        truth, got = sound(world.make_world(made, "train", number)[0], RATE).astype(float), row["audio"].astype(float)
        if kind != "aac":
            np.testing.assert_array_equal(got, truth)
        if truth.any():
            heard += 1
            assert np.corrcoef(got, truth)[0, 1] > 0.95
    assert heard


def test_streams_are_cropped_and_flipped_with_the_pictures(tmp_path):
    settings = world.settings(**SMALL)
    world.write_folder(str(tmp_path), 3, settings)
    shown, chosen = (
        [],
        {name: stream for name, stream in streams(SMALL).items() if name in ("boxes", "masks", "motion")},
    )
    for flipped in (0.0, 1.0):
        crop = call("data.transforms.random_resized_crop", size=48, area=[0.4, 0.6])
        transforms = [crop, call("data.transforms.flip", probability=flipped)]
        shown.append(rows(loose(tmp_path, SMALL), SMALL, transforms=transforms, streams=chosen))
    boxes = 0
    for number, pair in enumerate(zip(*shown, strict=True)):
        names = [COLOURS[shape.colour] for shape in world.make_world(settings, "train", number)[0].shapes]
        straight, mirrored = pair
        np.testing.assert_array_equal(straight["video"][:, :, ::-1], mirrored["video"])
        np.testing.assert_array_equal(straight["masks"][:, :, ::-1], mirrored["masks"])
        np.testing.assert_allclose(straight["motion"][:, :, ::-1] * [-1, 1], mirrored["motion"], atol=1e-4)
        assert straight["motion"].any()
        for row in pair:
            for frame, slot in np.argwhere(row["boxes_mask"]):
                identity = int(row["boxes_id"][frame, slot])
                here = row["masks"][frame, :, :, 0] == identity + 1
                x0, y0, x1, y1 = 48 * row["boxes"][frame, slot]
                if (x1 - x0) * (y1 - y0) < 60 or here.sum() < 40:
                    continue
                down, across = np.nonzero(here)
                assert x0 - 1.5 <= across.min() <= across.max() + 1 <= x1 + 1.5
                assert y0 - 1.5 <= down.min() <= down.max() + 1 <= y1 + 1.5
                assert np.abs(row["video"][frame][here].mean(0) - names[identity]).mean() < 45
                boxes += 1
    assert boxes > 20


@pytest.mark.parametrize(
    "options",
    [{"size": 15}, {"size": 33}, {"frames": 0}, {"shapes": 0}, {"shapes": 16}, {"speed": 0.0}, {"test": -1},
     {"silent": 1.5}, {"sound": "mp3"}, {"sound_rate": 12345}, {"rate": 0.0}, {"sway": -1.0}],
)  # fmt: skip
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"must be|one of"):
        world.settings(**options)


def test_settings_of_another_drawing_and_unknown_splits_are_refused():
    with pytest.raises(ConfigError, match=r"must be data\.synthetic\.world\.settings"):
        world.world(moving_shapes.settings())
    with pytest.raises(ConfigError, match=r"must be data\.synthetic\.moving_shapes\.settings"):
        moving_shapes.moving_shapes(SETTINGS)
    with pytest.raises(ConfigError, match=r"no split 'test\[:1\]' with these settings; it has train"):
        world.world(SETTINGS, "test[:1]")


def test_smoke_keeps_the_world_and_makes_it_small():
    source = call("data.synthetic.world", settings=call("data.synthetic.world.settings", shapes=4, sound="beside"))
    small = smoke(ConfigDict({"train": {"length": {"steps": 100}}, "data": {"source": source}}))
    settings = build(small.data.source).settings
    assert (settings.train, settings.size, settings.frames) == (16, 48, 16)
    assert (settings.shapes, settings.sound) == (4, "beside")
