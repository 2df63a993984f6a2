"""The model card of an export, made only from the files of the run and from measurements."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.io.writers import read_rows
from vmae_jax.spec import to_json
from vmae_jax.version import VERSION
from vmae_jax.weights.checkpoint import Checkpoint
from vmae_jax.weights.layouts.dims import Dims
from vmae_jax.weights.layouts.huggingface import ARCHITECTURES
from vmae_jax.weights.subject import Subject

__all__ = ["card", "write_card"]

FIGURE = re.compile(r".*\.(png|jpg|gif|webp)", re.IGNORECASE)
USE = {
    "pretraining": "features = model.videomae(**inputs).last_hidden_state.mean(1)",
    "encoder": "features = model(**inputs).last_hidden_state.mean(1)",
    "classifier": "label = model.config.id2label[int(model(**inputs).logits.argmax(-1)[0])]",
}
WHAT = {
    "pretraining": "a masked autoencoder of video, encoder and decoder, without labels",
    "encoder": "the encoder of a masked autoencoder of video",
    "classifier": "a classifier of videos",
}


def write_card(
    folder: pathlib.Path,
    one: Subject,
    source: Checkpoint,
    dims: Dims,
    report: Mapping[str, Any],
    *,
    license: str = "",  # noqa: A002
) -> None:
    """Write `README.md`, and the newest picture of the run if there is one."""
    rows = read_rows(source.workdir.metrics) if source.workdir.metrics.exists() else []
    rows = [row for row in rows if isinstance(row.get("step"), int) and row["step"] <= source.step]
    figure = _figure(folder, source)
    facts = {"rows": rows, "figure": figure, "license": license, "name": source.workdir.name}
    (folder / "README.md").write_text(card(one, source.config, dims, report, **facts), encoding="utf-8")


def card(
    one: Subject,
    config: ConfigDict,
    dims: Dims,
    report: Mapping[str, Any],
    *,
    rows: list[dict[str, Any]],
    name: str,
    figure: str = "",
    license: str = "",  # noqa: A002
) -> str:
    """Return the model card as Markdown.

    Args:
      rows: of `metrics.jsonl`, up to the exported step.
      figure: the name of a picture in the folder of the card, or empty.
      license: an identifier; empty if none was stated.
    """
    t, h, w, c = one.model.video_shape
    lines = _front_matter(dims, license)
    lines += [f"# {_text(name)}", "", f"VideoMAE: {WHAT[dims.kind]}.", ""]
    if figure:
        lines += [f"![Reconstructions drawn by the training run]({figure})", ""]
    lines += ["## Model", "", "| | |", "|---|---|"]
    facts = {
        "clips": f"{t} frames of {h}x{w} pixels, {c} channels",
        "cubes": f"{dims.tubelet}x{dims.patch}x{dims.patch}",
        "encoder": f"{dims.depth} blocks, width {dims.width}, {one.facts.heads} heads",
        "parameters": f"{report['parameters']:,} ({report['dtype']})",
        "weights": f"{report['weights']} after step {report['step']:,}",
    }
    if dims.kind == "pretraining":
        heads = one.facts.decoder_heads
        facts["decoder"] = f"{dims.decoder_depth} blocks, width {dims.decoder_width}, {heads} heads"
    if dims.kind == "classifier":
        facts["classes"] = str(dims.classes)
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "## Training", "", *_training(config, rows), "", "## Metrics", "", *_metrics(rows), ""]
    lines += ["## How the weights were checked", "", *_checks(report, dims), "", "## Use", "", *_use(dims), ""]
    lines += ["## License", "", _text(license) if license else "The run states none; ask its author.", ""]
    return "\n".join(lines)


def _front_matter(dims: Dims, license: str) -> list[str]:  # noqa: A002
    lines = ["---", "library_name: transformers"]
    if license:
        lines.append(f"license: {json.dumps(license)}")
    lines.append(f"pipeline_tag: {'video-classification' if dims.kind == 'classifier' else 'feature-extraction'}")
    return [*lines, "tags:", "- videomae", "- video", "- jax", "---", ""]


def _training(config: ConfigDict, rows: list[dict[str, Any]]) -> list[str]:
    seen = max((row.get("examples_seen", 0) for row in rows if row.get("kind") == "train"), default=0)
    lines = [f"Trained with vmae_jax {VERSION}."]
    if seen:
        lines.append(f"Videos seen, counted with repetitions: {seen:,}.")
    lines += ["The config:", "", "<details><summary>config.json of the run</summary>", ""]
    # A card is public; the paths of data on a private disk are not.
    text = re.sub(r'"(?:[a-z0-9]+:/)?/[^"\n]*?([^"/\n]*)/?"', r'".../\1"', to_json(config).rstrip())
    return [*lines, *(f"    {line}" for line in text.splitlines()), "", "</details>"]


def _metrics(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for kind, title, none in (("train", "last row", "training metrics"), ("eval", "last evaluation", "evaluation")):
        last = next((row for row in reversed(rows) if row.get("kind") == kind), None)
        if last is None:
            lines += [f"No {none} in the run's records.", ""]
            continue
        lines += [f"The {title}, at step {last['step']:,}:", "", "| metric | value |", "|---|---|"]
        numbers = {key: value for key, value in last.items() if isinstance(value, float) and key != "time"}
        lines += [f"| {_text(key)} | {value:.6g} |" for key, value in numbers.items()]
        lines.append("")
    return lines


def _checks(report: Mapping[str, Any], dims: Dims) -> list[str]:
    where = " and ".join(report["compared_on"])
    if report["checked_by"] == "round trip":
        return [f"Read back after writing, every tensor the same. {report['not_checked']}."]
    unit = "absolute" if report["dtype"] == "float32" else "relative to the largest output"
    lines = [
        f"Outputs of {report['checked_by']} against those of the training code in JAX, in float32, on {where}; "
        f"largest difference ({unit}):",
        "",
        "| output | same eps | as loaded |",
        "|---|---|---|",
    ]
    loaded = report["differences_as_loaded"]
    lines += [f"| {key} | {value:.2e} | {loaded[key]:.2e} |" for key, value in report["differences"].items()]
    if dims.kind != "encoder":
        norm = "fc_norm" if dims.kind == "classifier" else "decoder.norm"
        lines += ["", f"transformers fixes the eps of `{norm}` at 1e-5; the model was trained with 1e-6."]
    if report["not_checked"]:
        lines += ["", f"Not compared: {report['not_checked']}."]
    return lines


def _use(dims: Dims) -> list[str]:
    name = ARCHITECTURES[dims.kind]
    return [
        "```python",
        f"from transformers import {name}, VideoMAEImageProcessor",
        "",
        f'model = {name}.from_pretrained("path/to/this/folder")',
        'processor = VideoMAEImageProcessor.from_pretrained("path/to/this/folder")',
        'inputs = processor(list_of_frames, return_tensors="pt")  # uint8 [h w c] arrays of one clip',
        USE[dims.kind],
        "```",
    ]


def _figure(folder: pathlib.Path, source: Checkpoint) -> str:
    """Copy the newest picture of the run up to the exported step."""
    media = source.workdir.media
    if not media.exists():
        return ""
    found = []
    for path in media.iterdir():
        number = re.findall(r"\d+", path.name)
        if FIGURE.fullmatch(path.name) and number and int(number[-1]) <= source.step:
            found.append((int(number[-1]), path.name, path))
    if not found:
        return ""
    newest = max(found)[2]
    name = f"reconstruction{pathlib.Path(newest.name).suffix.lower()}"
    (folder / name).write_bytes(newest.read_bytes())
    return name


def _text(value: str) -> str:
    """Return text with the markup of Markdown and HTML escaped."""
    value = " ".join(str(value).split())
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", value)
