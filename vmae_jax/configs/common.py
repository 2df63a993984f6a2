"""The common parts of the configs: their `:arguments`, their sections, and `smoke`, which shrinks any of them."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.errors import did_you_mean
from vmae_jax.io.paths import saved_config
from vmae_jax.lookup import entry
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.text import transformer
from vmae_jax.models.variants import VARIANTS, vit
from vmae_jax.spec import ConfigError, call, calls, from_json, resolve, to_json
from vmae_jax.weights.resizing import model_of


def parse(text: str | None, **options: Any) -> Any:
    """Return the arguments after the colon of `--config=FILE.py:g,smoke,from=k710`.

    Args:
      text: names and name=value, separated by commas.
      **options: the accepted arguments with their defaults. A tuple is a choice, given by its bare name (the first is
        the default, and may be None); False is a flag; a type is a value of it without a default; anything else is
        a value of its type.

    Raises:
      ConfigError: if an argument is not one of these; it lists them.
    """
    result = {name: value[0] if isinstance(value, tuple) else value for name, value in options.items()}
    result = {name: None if isinstance(value, type) else value for name, value in result.items()}
    choices = {word: name for name, value in options.items() if isinstance(value, tuple) for word in value if word}
    for item in filter(None, (part.strip() for part in (text or "").split(","))):
        name, given, value = item.partition("=")
        if not given and options.get(item) is False:
            result[item] = True
        elif not given and item in choices:
            result[choices[item]] = item
        elif given and name in options and isinstance(options[name], tuple) and choices.get(value) == name:
            result[name] = value
        elif given and name in options and not isinstance(options[name], tuple | bool):
            result[name] = _typed(name, value, options[name])
        else:
            word = value if isinstance(options.get(name), tuple) else name
            hint = did_you_mean(word, (accepted for accepted in [*options, *choices] if accepted != item))
            raise ConfigError(f"the config has no argument {item!r}{hint}; it takes {_accepted(options)}")
    return ConfigDict(result)


def _typed(name: str, value: str, default: Any) -> Any:
    kind = default if isinstance(default, type) else type(default)
    try:
        return kind(value) if default is not None else value
    except ValueError:
        raise ConfigError(f"{name}={value}: expected a value of type {kind.__name__}") from None


def _accepted(options: dict[str, Any]) -> str:
    words = []
    for name, value in options.items():
        if isinstance(value, tuple):
            words.append("|".join(filter(None, value)))
        else:
            words.append(name if value is False else f"{name}=…")
    return ", ".join(words) or "none"


def sections(
    *,
    method: ConfigDict,
    data: ConfigDict,
    optimizer: ConfigDict,
    train: dict[str, Any],
    checkpoint: dict[str, Any] | None = None,
    eval: dict[str, Any] | None = None,  # noqa: A002 - the section's name
    mesh: dict[str, Any] | None = None,
    init_from: dict[str, Any] | None = None,
    seed: int = 0,
) -> ConfigDict:
    """Return a whole config: every experiment has exactly these sections."""
    config = ConfigDict(sort_keys=False)
    config.method = method
    config.data = data
    config.optimizer = optimizer
    config.train = call("train.settings.Training", **train)
    config.checkpoint = call("train.settings.Checkpointing", **(checkpoint or {}))
    config.eval = call("train.settings.Evaluation", **(eval or {}))
    config.mesh = call("train.settings.Mesh", **(mesh or {}))
    config.init_from = ConfigDict(init_from or {}, sort_keys=False)
    config.seed = seed
    return config


def diagnostics(known: Any = None, labels: Mapping[str, str] | None = None) -> dict[str, ConfigDict]:
    """Return evaluators that follow features during a training: `eval.spectrum`, and probes where there are labels.

    Args:
      known: a loader of labelled videos, which linear probes and nearest neighbours learn from. The labels must be
        those of `eval.data`.
      labels: name -> the key of a label in the batch; the evaluators are probe_NAME and knn_NAME.
    """
    found = {"spectrum": call("eval.spectrum")}
    for name, label in (labels or {}).items() if known is not None else ():
        found[f"probe_{name}"] = call("eval.probe", train=known, penalties=[1e-2], label=label)
        found[f"knn_{name}"] = call("eval.knn", train=known, label=label)
    return found


def begin(path: str | None, **options: Any) -> ConfigDict:
    """Return a call of `train.init_from.weights`; without a path, one that the user has yet to name."""
    return call("train.init_from.weights", **options, **({} if path is None else {"path": path}))


def saved_model(path: str | None) -> Any:
    """Return the model in the `config.json` of a workdir, trained here or imported; nothing of it is run.

    Args:
      path: a workdir or one of its checkpoints.

    Returns:
      a copy of the call, or None if there is no such file yet; loading the weights then reports that.

    Raises:
      ConfigError: if the file cannot be read as a config.
    """
    method = saved_method(path)
    return method and method.get("model")


def saved_method(path: str | None) -> Any:
    """Return the section `method` in the `config.json` of a workdir; the rest is as in `saved_model`."""
    return saved_section(path, "method")


def saved_section(path: str | None, name: str) -> Any:
    """Return a section in the `config.json` of a workdir; the rest is as in `saved_model`."""
    text = path and saved_config(path)
    section: Any = from_json(text).get(name) if text else None
    return section if isinstance(section, ConfigDict) else None


def smoke(config: Any, steps: int = 4) -> ConfigDict:
    """Shrink any config until it trains in seconds on a CPU, with the tiny arguments of each component.

    These are registered with it (`registry.register(kind, smoke=…)`). A network that begins from saved weights
    keeps their dimensions; its clips are shrunk.
    """
    config = _shrunk(config)
    _assign(config.train, "length", {"steps": steps})
    kept = False
    for at, record in (config.get("init_from") or {}).items():
        root, *below = at.split("/")
        modalities: Any = config.method.get("modalities") or {}
        if root == "params" and below and below[0] in modalities:
            node: Any = modalities[below[0]].model
        else:
            node = config.method.get(below[0] if root == "frozen" and below else "model")
        if not isinstance(node, ConfigDict) or node.get("call") not in _DIMENSIONS:
            continue
        kind = str(node.get("call"))
        given: Any = from_json(to_json(record))  # without a path that is left open
        saved: Any = saved_method(given.get("path"))
        saved = saved and (saved.get("text") if kind == _TEXT else model_of(saved, given.get("select") or "params")[0])
        if isinstance(saved, ConfigDict) and (saved.get("call") == kind or kind == _SPECTROGRAM):
            for key, default in _DIMENSIONS[kind].items():
                _assign(node, key, saved.get(key, default))
            kept = True
    if kept:
        _fit_clips(config)
    return config


def _defaults(function: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: inspect.signature(function).parameters[name].default for name in names}


_VIT, _TEXT, _SPECTROGRAM = "models.variants.vit", "models.text.transformer", "models.spectrogram"
# What weights have of their models.
_DIMENSIONS = {
    _VIT: _defaults(vit, ("size", "width", "depth", "heads", "mlp_ratio", "patch", "tubelet")),
    _SPECTROGRAM: _defaults(spectrogram, ("size", "width", "depth", "heads")),  # of images, too
    _TEXT: _defaults(transformer, ("vocabulary", "length", "width", "size", "depth", "heads", "mlp_ratio")),
}


def _fit_clips(config: Any) -> None:
    """Enlarge tiny clips until the cubes of every model divide them."""
    models: list[Any] = [node for node in calls(config.method) if node.call == _VIT]
    side = math.lcm(*(node.patch or VARIANTS[node.size].patch for node in models))
    depth = math.lcm(*(node.tubelet for node in models))
    for node in models:
        node.resolution = -(-node.resolution // side) * side
        if node.frames > 1:  # a model of images stays one
            node.frames = -(-node.frames // depth) * depth
    every: list[Any] = list(calls(config))
    samplers = [node for node in every if node.call.startswith("data.clips.")]
    frames = [node.frames for node in samplers]
    take_clips(config, models[0])
    if models[0].frames == 1:  # clips that are seen frame by frame keep their length
        for node, count in zip(samplers, frames, strict=True):
            node.frames = count


def take_clips(config: ConfigDict, model: Any) -> None:
    """Set frames, size and channels of all loaders of a config to those of a model; images beside clips stay images."""
    nodes: list[Any] = list(calls(config))
    images = {id(one.sampler) for node in nodes for one in (node.get("images") or {}).values() if "sampler" in one}
    for node in nodes:
        if node.call.startswith("data.clips."):
            node.frames = 1 if id(node) in images else model.frames
        elif node.call.startswith("data.transforms.") and "size" in node:
            node.size = model.resolution
        elif node.call == "data.pipeline.loader":
            node.channels = model.channels


def _shrunk(node: Any) -> Any:
    """Change every call in a part of a config to `smoke` size, outermost first, in place."""
    if isinstance(node, list | tuple):
        return [_shrunk(child) for child in node]
    if not isinstance(node, ConfigDict):
        return node
    node = _tiny(node) if "call" in node else node
    for key in from_json(to_json(node)):  # only those with a value
        child = node[key]
        new = _shrunk(child)
        if new is not child:
            _assign(node, key, new)
    return node


def _tiny(node: ConfigDict) -> ConfigDict:
    """Return a call at `smoke` size, or the call that replaces it."""
    tiny = entry(resolve(str(node.call))).smoke
    if callable(tiny):
        tiny = tiny({key: value for key, value in from_json(to_json(node)).items() if key != "call"})
    if isinstance(tiny, ConfigDict) and "call" in tiny:
        return tiny
    for key, value in tiny.items():
        _assign(node, key, value)
    return node


def _assign(node: ConfigDict, key: str, value: Any) -> None:
    """Replace an argument; `update` would merge mappings, such as lengths of different units."""
    with node.ignore_type():
        node[key] = ConfigDict(value, convert_dict=False) if isinstance(value, dict) else value


def unlabeled_hybrid(records: str | None = None, own: str | None = None) -> ConfigDict:
    """Return UnlabeledHybrid, 1.35 million clips: every clip of every part once per epoch [code].

    The parts [paper], in thousands of clips: Kinetics-710, 658; Something-Something v2, 169; AVA, 21; WebVid, 250 of
    its 2,500; Instagram, 250, which were never published, so a list of your own can replace them. The choice of WebVid
    is not published: a tenth by digest [inferred]. AVA's clips are consecutive parts of ten seconds of the training
    movies, which makes 21 thousand [inferred]. Something-Something is read at stride 2, because it has 12 frames per
    second [code].

    Args:
      records: the folder of k710/, ssv2/, ava/ and webvid/, made by `vmae data prepare`; by default the
        distributed files, in the folders `--config.data.source.parts.NAME.source.catalog.directory=`.
      own: a list of videos, in an official format.
    """
    parts = {
        "k710": (_K710, None),
        "ssv2": (("something_something", {"version": "v2"}), 2),
        "ava": (("ava", {"seconds": 10.0, "clips": "consecutive"}), None),
        "webvid": (("webvid", {"version": "2M", "share": 0.1}), None),
    }
    made = {
        name: call("data.mixture.part", source=_splits(name, catalog, records)("train"), stride=stride)
        for name, (catalog, stride) in parts.items()
    }
    if own is not None:
        made["own"] = call("data.mixture.part", source=call("data.sources.csv", path=own))
    return call("data.mixture", parts=made)


def splits(name: str, label: str = "label", **arguments: Any) -> Callable[[str], ConfigDict]:
    """Return a function from a split of a catalog to its source; all have the directory of "train".

    Args:
      name: of the catalog.
      label: as in `data.sources.catalog`.
      **arguments: of the catalog.
    """
    train = call(f"data.catalogs.{name}.read", **arguments)

    def source(split: str) -> ConfigDict:
        read = train
        if split != "train":
            read = call(f"data.catalogs.{name}.read", **arguments)
            read.directory = train.get_ref("directory")
        return call("data.sources.catalog", catalog=read, split=split, label=label)

    return source


def labeled_hybrid(records: str | None = None) -> Callable[[str], ConfigDict]:
    """Return LabeledHybrid, which is Kinetics-710 [code]: 658,340 training and 66,803 validation clips, 710 classes.

    Args:
      records: as in `unlabeled_hybrid`.
    """
    return _splits("k710", _K710, records)


_K710 = ("kinetics", {"version": "710"})


def _splits(name: str, catalog: tuple[str, dict[str, Any]], records: str | None) -> Callable[[str], ConfigDict]:
    if records is None:
        return splits(catalog[0], **catalog[1])
    folder = f"{records.rstrip('/')}/{name}"
    return lambda split: call("data.sources.tfds", directory=folder, split=split)
