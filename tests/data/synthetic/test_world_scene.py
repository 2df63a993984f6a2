"""world's room and camera: paths, bounces, and where the pictures show them."""

import numpy as np
from drawn_worlds import SETTINGS, scenes

from vmae_jax.data.synthetic import world
from vmae_jax.data.synthetic.world_scene import COLOURS


def test_a_bounce_is_where_a_path_turns():
    times = np.arange(0, 2, 1e-3)
    for made, _ in scenes():
        for shape in made.shapes:
            signs = np.sign(np.diff(shape.at(times), axis=0))
            turned = np.flatnonzero((np.diff(signs, axis=0) != 0).any(1))  # the turn is within two steps after it
            bounces = np.array(shape.bounces(made.seconds))
            assert all(np.abs(bounces - times[turn + 1]).min() <= 1.1e-3 for turn in turned)
            assert all(np.abs(times[turned + 1] - time).min() <= 1.1e-3 for time in bounces if 0.002 < time < 1.997)


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
