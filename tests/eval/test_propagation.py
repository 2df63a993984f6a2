"""Label propagation: a step by hand, an oracle that reaches the bound, and features that carry nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.data.sequences import Annotated, Opened, drawn
from vmae_jax.data.synthetic.world import settings
from vmae_jax.eval import correspondence, segmentation
from vmae_jax.eval.collect import About
from vmae_jax.eval.propagation import propagation
from vmae_jax.masking.tube import tube
from vmae_jax.methods import masked
from vmae_jax.models.positions import for_grid, learned, separable, sincos_3d
from vmae_jax.models.variants import vit
from vmae_jax.resampling import resized
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.sharding import unbox
from vmae_jax.types import Carried, Grid, Method
from vmae_jax.weights.layouts import resize

PATCH = 2
WORLD = settings(test=2, frames=9, size=64, speed=0.6)


def test_a_step_takes_the_labels_of_the_most_similar_tokens():
    """Against a loop over tokens, with a radius and a ring of two frames, over five frames."""
    random = np.random.default_rng(0)
    features = random.normal(size=(6, 3, 5, 4)).astype(np.float32)
    first = random.dirichlet(np.ones(3), (3, 5)).astype(np.float32)
    options = {"temperature": 0.5, "topk": 4, "radius": 2.0}
    memory, known = correspondence.begin(features[0], first, 2), [(features[0], first)]
    for number in range(1, 6):
        found, memory = correspondence.step(memory, features[number], **options)
        newest = [known[max(0, number - back)] for back in (2, 1)]
        expected = _by_hand([known[0], *newest], features[number], **options)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        known.append((features[number], expected))


def _by_hand(context, query, *, temperature, topk, radius):
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    found = np.zeros((*query.shape[:2], 3), np.float32)
    for y, x in np.ndindex(*query.shape[:2]):
        rows = []
        for number, (features, labels) in enumerate(context):
            for v, u in np.ndindex(*query.shape[:2]):
                if number == 0 or np.hypot(y - v, x - u) < radius:
                    rows.append((unit(query[y, x]) @ unit(features[v, u]), labels[v, u]))
        rows = sorted(rows, key=lambda row: -row[0])[:topk]
        weight = np.exp(np.array([row[0] for row in rows]) / temperature)
        found[y, x] = (weight[:, None] * np.array([row[1] for row in rows])).sum(0) / weight.sum()
    return found


def toy(features):
    return Method(
        init=lambda key, batch: ({}, None),
        loss=lambda *_: pytest.fail("an evaluator trains nothing"),
        features=lambda *_: pytest.fail("features of frames are read"),
        frame_features=features,
    )


def raw(params, frames, *, layer=None):
    """Patches of pixels."""
    b, h, w, c = frames.shape
    split = jnp.asarray(frames, jnp.float32).reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c) / 255
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // PATCH, w // PATCH, -1) - 0.5


def oracle(params, frames, *, layer=None):
    """Shares of each label in each patch, of pictures whose grey is 80 times the label."""
    hot = jax.nn.one_hot(jnp.round(frames[..., 0] / 80).astype(int), 4)
    b, h, w, c = hot.shape
    return hot.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).mean(axis=(2, 4))


def noise(params, frames, *, layer=None):
    b, h, w, _ = frames.shape
    key = jax.random.key(jnp.sum(frames.astype(jnp.int32)))
    return jax.random.normal(key, (b, h // PATCH, w // PATCH, 16))


def in_grey(opened):
    """The videos with pictures that show nothing but their labels."""

    def video(number):
        one = opened.video(number)
        grey = lambda frame: np.repeat(80 * one.labels(frame)[..., None], 3, axis=-1)  # noqa: E731
        return Annotated(one.key, one.length, grey, one.labels)

    return Opened(opened.task, opened.keys, video)


def shuffled(opened):
    """The videos with their pictures in another order than their labels, but for the first."""

    def video(number):
        one = opened.video(number)
        order = [0, *(1 + np.random.default_rng(number).permutation(one.length - 1))]
        return Annotated(one.key, one.length, lambda frame: one.picture(order[frame]), one.labels)

    return Opened(opened.task, opened.keys, video)


def run(features, opened, **options):
    evaluator = propagation(None, size=(64, 64), **{"radius": 8.0, "context": 4, **options})
    return evaluator(toy(features), {}, opened, About())


@pytest.fixture(scope="module")
def clips():
    return drawn(WORLD).open()


def bound(opened):
    """The best J that labels at the tokens' resolution can have."""
    values = []
    for video in opened:
        for number in range(1, video.length - 1):
            truth = video.labels(number)
            shares = correspondence.down(truth, count=16, grid=(64 // PATCH, 64 // PATCH))
            found = np.asarray(correspondence.up(shares, size=(64, 64)))
            labels = [label for label in np.unique(video.labels(0)) if label]
            values.append([segmentation.jaccard(truth == label, found == label) for label in labels])
    return np.mean([one for row in values for one in row])


def test_a_state_is_carried_through_a_video_and_no_further(clips):
    """Frames are given two at a time, and the last of nine is repeated; the second video begins again."""

    def sums(params, frames, state=None):
        begin = jnp.zeros(frames.shape[1:]) if state is None else state
        found = begin + jnp.cumsum(jnp.asarray(frames, jnp.float32), axis=0)
        return found, found

    evaluator = propagation(None, size=(64, 64))
    method = toy(raw)._replace(frame_states=sums)
    for video in clips:
        found = [np.asarray(one) for _, one in evaluator._frames(method, {}, video, About(rows=2))]
        pictures = np.stack([video.picture(number) for number in range(video.length)]).astype(np.float32)
        np.testing.assert_array_equal(found, pictures.cumsum(axis=0))
    single = propagation(None, size=(64, 64), layer=1)  # of frames by themselves
    found = next(iter(single._frames(method, {}, video, About(rows=2))))[1]
    assert found.shape == (32, 32, 12)


def test_an_oracle_reaches_the_bound_and_features_without_information_are_far_below(clips):
    found = run(oracle, in_grey(clips))
    assert found["j_mean"] > 0.96 * bound(clips) > 0.9
    assert found["f_mean"] > 0.95
    pixels_only = run(raw, clips)  # whose colours distinguish the shapes
    assert 0.8 < pixels_only["j_mean"] < found["j_mean"]
    nothing = run(noise, clips)
    assert nothing["j_mean"] < 0.1
    late = run(raw, shuffled(clips))
    assert late["j_mean"] < 0.75 * pixels_only["j_mean"]


def test_the_table_and_the_pictures(clips):
    found = run(oracle, in_grey(clips), pictures=2)
    assert sorted(found.files) == ["masks_00.png", "masks_01.png"]
    header, *rows = found.tables["videos.csv"]
    assert header[:3] == ["video", "object", "J mean"]
    assert len(rows) == found["objects"]
    assert np.mean([row[2] for row in rows]) == pytest.approx(found["j_mean"])
    assert found["jf_mean"] == pytest.approx((found["j_mean"] + found["f_mean"]) / 2)


def test_frames_at_once_change_nothing_and_videos_compile_nothing_more(clips):
    """Frames that devices share are padded; objects and lengths of videos have no program of their own."""
    compiled = []
    listen = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    evaluator, about = propagation(None, size=(64, 64), radius=8.0, context=4, pictures=0), About(rows=5)
    method = toy(raw)
    many = evaluator(method, {}, clips, about)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        other = drawn(settings(test=2, frames=7, size=64, shapes=5)).open()
        evaluator(method, {}, other, about)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    one = run(raw, clips)
    for name, value in one.items():
        assert many[name] == pytest.approx(value, abs=1e-6), name


def video_of(task, truth, **more):
    pictures = [np.repeat(80 * np.clip(one, 0, 3)[..., None], 3, axis=-1).astype(np.uint8) for one in truth]
    one = Annotated("a", len(truth), pictures.__getitem__, **more)
    return Opened(task, ["a"], lambda _: one, classes=("nothing", "hat", "coat"))


def walking(frames=5):
    truth = np.zeros((frames, 64, 64), np.uint8)
    for number in range(frames):
        truth[number, 16:32, 8 + 4 * number : 24 + 4 * number] = 1
        truth[number, 40:56, 40 - 4 * number : 56 - 4 * number] = 2
    return truth


def test_classes_are_counted_over_all_frames():
    truth = walking()
    found = run(oracle, video_of("classes", truth, labels=truth.__getitem__))
    assert found["miou"] > 0.95
    assert found["pixel_accuracy"] > 0.99
    assert [row[0] for row in found.tables["videos.csv"][1:]] == ["nothing", "hat", "coat"]
    wrong = run(noise, video_of("classes", truth, labels=truth.__getitem__))
    assert wrong["miou"] < 0.6
    few = dataclasses.replace(video_of("classes", truth, labels=truth.__getitem__), classes=("nothing", "hat"))
    with pytest.raises(ValueError, match="label 2 in its first frame; there are 2 classes"):
        run(oracle, few)


def test_joints_follow_what_moves():
    truth = walking()
    points = np.array(
        [[[12 + 4 * t, 20.0], [20 + 4 * t, 28.0], [44 - 4 * t, 44.0], [52 - 4 * t, 52.0]] for t in range(5)]
    )
    marks = truth.copy()
    found = run(_corners, video_of("joints", marks, points=points), topk=2)
    assert found["pck_0.2"] == 100
    assert found["lost"] == 0
    same = lambda params, frames, *, layer=None: jnp.ones((len(frames), 32, 32, 1))  # noqa: E731
    still = run(same, video_of("joints", marks, points=points))
    assert still["pck_0.1"] < 60


def _corners(params, frames, *, layer=None):
    """The label and the place within its square, by sums from the left and the top."""
    hot = jax.nn.one_hot(jnp.round(frames[..., 0] / 80).astype(int), 3)
    b, h, w, c = hot.shape
    tokens = hot.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).mean(axis=(2, 4))
    sums = [tokens[..., 1:] * tokens[..., 1:].cumsum(axis) / 4 for axis in (1, 2)]
    return jnp.concatenate([tokens, *sums], axis=-1)


MODEL = {"size": "micro", "frames": 8, "resolution": 32, "patch": 8, "dtype": "float32"}


def untrained(**model):
    method = masked.build(vit(**{**MODEL, **model}), tube(0.75), {"pixels": objective(pixels())})
    batch = {"video": np.zeros((1, model.get("frames", 8), 32, 32, 3), np.uint8), "seed": np.zeros((1, 2), np.uint32)}
    return method, unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])


@pytest.mark.slow
def test_an_untrained_encoder_is_above_noise(clips):
    method, params = untrained(positions=sincos_3d())
    evaluator = propagation(None, size=(128, 128), radius=8.0, context=4, pictures=0)
    found = evaluator(method, params, clips, About())
    assert found["j_mean"] > run(noise, clips)["j_mean"]


@pytest.mark.slow
@pytest.mark.parametrize("positions", [None, learned(), separable()], ids=["sinusoid", "learned", "separable"])
def test_features_of_frames_are_those_of_still_clips(positions):
    """At the model's own size, a clip of one tubelet has the features of its picture; other sizes have their grid."""
    method, params = untrained(positions=positions, frames=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = method.frame_features(params, frames)
    clip = method.features(params, {"video": np.repeat(frames[:, None], 2, axis=1)}, pool=False)
    np.testing.assert_allclose(found, clip.reshape(3, 4, 4, -1), atol=1e-6)
    wide = np.random.default_rng(0).integers(0, 256, (1, 48, 80, 3), np.uint8)
    assert method.frame_features(params, wide, layer=1).shape == (1, 6, 10, 32)
    with pytest.raises(ValueError, match="does not divide"):
        method.frame_features(params, wide[:, :-1])
    with pytest.raises(ValueError, match="pictures of 3 channels, not 1"):
        method.frame_features(params, wide[..., :1])


@pytest.mark.parametrize("positions", [learned(), separable()], ids=["learned", "separable"])
def test_learned_positions_are_interpolated_as_those_of_imported_weights(positions):
    """`weights.layouts.resize` is compared with PyTorch elsewhere."""
    params = untrained(positions=positions)[1]
    old, new = Grid(4, 4, 4), Grid(1, 6, 10)
    [(module, tables)] = [
        (name, params["encoder"][name]) for name in ("Learned_0", "Separable_0") if name in params["encoder"]
    ]
    found = for_grid(params["encoder"], old, new)
    grids = {
        "table": (old, new),
        "space_table": (Grid(1, 4, 4), Grid(1, 6, 10)),
        "time_table": (Grid(4, 1, 1), Grid(1, 1, 1)),
    }
    for name, table in tables.items():
        expected = resize.positions(np.asarray(table), *grids[name])
        np.testing.assert_allclose(found[module][name], expected, atol=1e-6)
    assert found["embed"] is params["encoder"]["embed"]


def test_a_linear_ramp_is_interpolated_exactly():
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None], 4, axis=0)
    np.testing.assert_array_equal(resized(ramp, 4, 16)[0, 1:-1], np.rint(np.arange(2.5, 70, 5)))
    np.testing.assert_array_equal(resized(ramp, 2, 4, nearest=True), [[10, 30, 50, 70]] * 2)
    assert resized(ramp, 4, 8) is ramp


def test_mistakes_are_one_line(clips):
    for options, message in (
        ({"size": (1, 2, 3)}, "height and width, or the long side"),
        ({"temperature": 0.0}, "above 0"),
        ({"context": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            propagation(None, **options)
    evaluator = propagation(None, size=(64, 64))
    with pytest.raises(ValueError, match="no features of single frames"):
        evaluator.check(toy(None), {}, {}, Carried())
    with pytest.raises(ValueError, match="topk=1025: a frame of 64x64 pixels has 1024 tokens"):
        propagation(None, size=(64, 64), topk=1025).check(toy(raw), {}, {}, Carried())
    short = video_of("objects", walking(2), labels=walking(2).__getitem__)
    with pytest.raises(ValueError, match="a has 2 frames"):
        run(oracle, short)


def test_the_long_side_determines_the_size():
    evaluator = propagation(None, size=(880,))
    assert evaluator._size((720, 1280)) == (448, 880)
    assert evaluator._size((1280, 720)) == (880, 448)
    assert evaluator._size((100, 100)) == (880, 832)
