"""world: what is heard, written and measured is what happens in the pictures, loose and from records."""

import hashlib
import io
import itertools
import os

import av
import numpy as np
import pytest
from ml_collections import ConfigDict

from vmae_jax.configs.common import smoke
from vmae_jax.data.opened import open_loader
from vmae_jax.data.streams.tables import read_columns
from vmae_jax.data.streams.text import cues
from vmae_jax.data.synthetic import moving_shapes, world
from vmae_jax.data.synthetic.world_files import PITCHES, SEGMENTS, TONE, sound
from vmae_jax.data.synthetic.world_scene import COLOURS
from vmae_jax.spec import ConfigError, build, call

RATE = 16000
SMALL = {"train": 3, "validation": 0, "test": 0, "size": 48, "frames": 24, "silent": 0.5}
SETTINGS = world.settings(**{**SMALL, "frames": 48, "shapes": 3})


def scenes(count=6, settings=SETTINGS):
    return [world.make_world(settings, "train", number) for number in range(count)]


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def table(settings, number, side, *columns):
    return read_columns(world.make_clip(settings, "train", number).sides[side].data, columns)


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


def test_a_bounce_is_where_a_path_turns():
    times = np.arange(0, 2, 1e-3)
    for made, _ in scenes():
        for shape in made.shapes:
            signs = np.sign(np.diff(shape.at(times), axis=0))
            turned = np.flatnonzero((np.diff(signs, axis=0) != 0).any(1))  # the turn is within two steps after it
            bounces = np.array(shape.bounces(made.seconds))
            assert all(np.abs(bounces - times[turn + 1]).min() <= 1.1e-3 for turn in turned)
            assert all(np.abs(times[turned + 1] - time).min() <= 1.1e-3 for time in bounces if 0.002 < time < 1.997)


def test_there_is_sound_exactly_where_audible_bounces_are():
    kinds = set()
    for made, _ in scenes(12):
        samples = sound(made, RATE).astype(float)
        loud = np.zeros(len(samples), bool)
        audible = [event for event in made.events() if event.audible]
        for event in audible:
            first = round(event.time * RATE)
            loud[first : first + round(TONE * RATE)] = True
        assert not samples[~loud].any()
        for event in made.events():
            first, near = round(event.time * RATE), [other for other in audible if abs(other.time - event.time) < TONE]
            piece = samples[first : first + round(TONE * RATE)]
            alone = near in ([], [event]) and len(piece) == round(TONE * RATE)
            if alone and event.audible:
                assert piece.std() > 1000
                peak = np.abs(np.fft.rfft(piece)).argmax() * RATE / len(piece)
                assert abs(peak - PITCHES[made.shapes[event.shape].form]) < 10
            if alone:
                kinds.add((event.audible, event.seen))
                assert piece.any() == event.audible
    assert kinds == set(itertools.product((False, True), repeat=2)), "loud and silent ones, in sight and out of it"


def test_the_label_is_the_pace_of_the_shapes():
    speeds = [np.linalg.norm(made.shapes[0].velocity) for made, _ in scenes(3)]
    np.testing.assert_allclose(speeds, [0.3, 0.6, 1.2], rtol=1e-6)
    assert [world.Clips(SETTINGS, "train", range(6)).labels(index)["label"] for index in range(6)] == [0, 1, 2] * 2
    assert [made.pace for made, _ in scenes(3)] == list(world.Clips(SETTINGS, "train", range(6)).label_names["label"])


def test_boxes_are_tight_around_what_is_drawn():
    checked = cut = 0
    for made, drawn in scenes():
        colours = [shape.colour for shape in made.shapes]
        for number, shape in enumerate(made.shapes):
            if colours.count(shape.colour) > 1:
                continue
            found = (drawn.video == COLOURS[shape.colour]).all(-1)
            assert not found[~drawn.seen[:, number]].any()
            for frame in np.flatnonzero(drawn.seen[:, number]):
                x0, y0, x1, y1 = drawn.boxes[frame, number]
                within = np.zeros_like(found[frame])
                within[y0:y1, x0:x1] = True
                assert not (found[frame] & ~within).any()
                cut += bool(x1 == 48 or x0 == 0)
                if number == len(colours) - 1:  # nothing is in front of it
                    inside = found[frame][y0:y1, x0:x1]
                    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
                    checked += 1
    assert checked > 100
    assert cut > 10


def test_circles_are_drawn_where_the_camera_shows_them():
    times, checked = np.arange(48) / 24, 0
    for made, drawn in scenes(12):
        for number, shape in enumerate(made.shapes):
            if shape.form != "circle":
                continue
            centre = made.camera.shown(shape.at(times), times) * 48
            radius = shape.radius * 48
            whole = ((centre > radius) & (centre < 48 - radius)).all(1)
            box = np.concatenate([centre - radius, centre + radius], 1)
            assert np.abs(box - drawn.boxes[:, number])[whole].max(initial=0) <= 1.01
            assert drawn.seen[whole, number].all()
            checked += whole.sum()
    assert checked > 100


def test_captions_last_as_long_as_the_flights_that_are_seen():
    unseen = 0
    for number, (made, drawn) in enumerate(scenes()):
        sides = world.make_clip(SETTINGS, "train", number).sides
        found = cues(sides["subtitles"].data.decode())
        names = {shape.name: index for index, shape in enumerate(made.shapes)}
        assert found
        for cue in found:
            _, colour, form, _, direction, pace = cue.text.split()
            shape = made.shapes[names[f"{colour} {form}"]]
            ends = np.array([0.0, *shape.bounces(2.0), 2.0])
            assert max(np.abs(ends - cue.begin).min(), np.abs(ends - cue.end).min()) <= 0.0006
            x, y = np.diff(shape.at(np.array([cue.begin, cue.end])), axis=0)[0]
            assert {"left": -x, "right": x, "up": -y, "down": y}[direction] >= max(abs(x), abs(y)) - 0.002
            assert pace == made.pace
        frames = np.arange(48) / 24
        for index, shape in enumerate(made.shapes):
            ends = [0.0, *shape.bounces(2.0), 2.0]
            for begin, end in itertools.pairwise(ends):
                seen = drawn.seen[(frames >= begin) & (frames < end), index].any()
                shown = any(shape.name in cue.text and abs(cue.begin - begin) < 0.0006 for cue in found)
                assert shown == seen
                unseen += not seen
        lines = sides["text"].data.decode().splitlines()
        assert lines == [
            f"a {shape.name} moves {made.pace}" for i, shape in enumerate(made.shapes) if drawn.seen[:, i].any()
        ]
    assert unseen


def test_segments_are_the_flights_and_the_bounces():
    for number, (made, _) in enumerate(scenes(3)):
        found = table(SETTINGS, number, "segments", "begin", "end", "label", "id")
        bounces = found["label"] == SEGMENTS.index("bounce")
        events = made.events()
        np.testing.assert_allclose(found["begin"][bounces], [event.time for event in events], atol=1e-8)
        assert found["id"][bounces].tolist() == [event.shape for event in events]
        for index in range(len(made.shapes)):
            flights = ~bounces & (found["id"] == index)
            np.testing.assert_allclose(found["begin"][flights][1:], found["end"][flights][:-1])
            assert (found["begin"][flights][0], found["end"][flights][-1]) == (0, 2)


def test_sensors_integrate_to_the_path_of_the_camera():
    for number, (made, _) in enumerate(scenes(3)):
        found = table(SETTINGS, number, "imu", "time", "ax", "ay", "gz")
        times = found["time"]
        assert (times[0], times[-1], len(times)) == (0, 2, 201)
        pose = made.camera.pose(times)
        roll = pose[0, 2] + integral(found["gz"], times)
        np.testing.assert_allclose(roll, pose[:, 2], atol=1e-4)
        x = np.cos(roll) * found["ax"] - np.sin(roll) * found["ay"]
        y = np.sin(roll) * found["ax"] + np.cos(roll) * found["ay"]
        for acceleration, path in ((x, pose[:, 0]), (y, pose[:, 1])):
            assert np.ptp(path) > 0.02
            moved = integral(integral(acceleration, times), times)
            begun = (path[-1] - path[0] - moved[-1]) / times[-1]  # the velocity at the first reading
            np.testing.assert_allclose(path[0] + begun * times + moved, path, atol=2e-4)


def integral(values, times):
    return np.concatenate([[0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(times))])


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
        assert record.labels == {"label": number}
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
