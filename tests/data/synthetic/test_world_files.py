"""world's sound, captions, segments and readings are what happens in its room."""

import itertools

import numpy as np
from drawn_worlds import RATE, SETTINGS, scenes, table

from vmae_jax.data.streams.text import cues
from vmae_jax.data.synthetic import world
from vmae_jax.data.synthetic.world_files import SEGMENTS, TONE, sound


def test_there_is_sound_exactly_where_audible_bounces_are():
    kinds, pitches = set(), {"circle": 440, "square": 660, "triangle": 990}
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
                assert abs(peak - pitches[made.shapes[event.shape].form]) < 10
            if alone:
                kinds.add((event.audible, event.seen))
                assert piece.any() == event.audible
    assert kinds == set(itertools.product((False, True), repeat=2)), "loud and silent ones, in sight and out of it"


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
