"""The files of `fuzz_weights.py`: small valid ones, and what a seed makes of them."""

import copy
import io
import json
import pathlib
import pickletools
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.torch_write import write_pth
from vmae_jax.weights.layouts import huggingface
from vmae_jax.weights.layouts.dims import dims_of

__all__ = ["FAMILIES", "mutated", "originals"]

FAMILIES = ("pth", "safetensors", "index", "config")
WIDTH, DEPTH, HIDDEN, PATCH, TUBELET = 8, 1, 16, 4, 2
EDGES = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
HOSTILE = (
    None, True, False, *EDGES, 2**64, 2**200, 0.5, -1.0, 1e308, float("nan"), float("inf"), "", "F32", "F8_E4M3", "F4",
    "BOOL", "../x.safetensors", "/etc/passwd",
    "\x00", "\ud800", "a\nb", "\x1b[2J", "x" * 5000, [], {}, [[]], [-1], ["a"],
    [2**40, 2**40], [0, 2**62], {"a": 1}, ".", "model.safetensors.index.json", "config.json",
)  # fmt: skip
ATTACKS = (
    b"cos\nsystem\nX\x04\x00\x00\x00true\x85R", b"cbuiltins\nexec\nX\x01\x00\x00\x001\x85R", b"c__builtin__\neval\n",
    b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb", b"ctorch\nBFloat16Storage\n}b",
    b"(S'true'\nios\nsystem\n", b"(cos\nsystem\nX\x04\x00\x00\x00trueo", b"\x82\x01", b"\x83\x01\x00", b"P1\n", b"2",
    b"cargparse\nNamespace\n)\x81}b", b"ctorch._utils\n_rebuild_tensor_v2\n}b", b"(((((((((", b"]\x94h\x00a", b"\x92",
    b"(K\x03K\x00NN(X\x07\x00\x00\x00itemsizeJ\x00\x65\xcd\x1dtb", b"\x8c\x02os\x8c\x06system\x93", b"]" * 3000,
    b"\x85" * 3000, b"\x94" * 500, b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x97",
)  # fmt: skip


def originals() -> dict[str, dict[str, bytes]]:
    """The valid files of each family by name; the first is the one to read ("." for the folder)."""
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in _shapes().items()}
    about = {"num_frames": 4, "image_size": 8, "num_attention_heads": 2}
    theirs = huggingface.to_state(state, "encoder")
    config = huggingface.config(dims_of(state), heads=2, decoder_heads=0, frames=4, size=(8, 8))
    prepare = huggingface.preprocessor(size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    half = {name: array.astype(ml_dtypes.bfloat16) if array.ndim == 1 else array for name, array in state.items()}
    parts = [dict(list(theirs.items())[::2]), dict(list(theirs.items())[1::2])]
    places = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
    index = json.dumps({"metadata": {}, "weight_map": places}).encode()
    texts = {"config.json": json.dumps(config).encode(), "preprocessor_config.json": json.dumps(prepare).encode()}
    saved = lambda part: lambda path: tensors.write_safetensors(path, part, {})  # noqa: E731
    return {
        "pth": {
            "x.pth": _written("x.pth", lambda path: write_pth(path, {"model": half, "epoch": 3, "vmae_jax": about}))
        },
        "safetensors": {
            "x.safetensors": _written("x.safetensors", lambda path: tensors.write_safetensors(path, half, about))
        },
        "index": {
            ".": b"",
            "model.safetensors.index.json": index,
            **{f"{n}.safetensors": _written("s", saved(part)) for n, part in enumerate(parts)},
            **texts,
        },
        "config": {".": b"", "model.safetensors": _written("s", saved(theirs)), **texts},
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    block = {
        "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "mlp.fc1.weight": (HIDDEN, WIDTH),
        "mlp.fc1.bias": (HIDDEN,), "mlp.fc2.weight": (WIDTH, HIDDEN), "mlp.fc2.bias": (WIDTH,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.patch_embed.proj.weight": (WIDTH, 3, TUBELET, PATCH, PATCH),
        "encoder.patch_embed.proj.bias": (WIDTH,),
    }
    shapes |= {f"encoder.blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()}
    return shapes | {"encoder.norm.weight": (WIDTH,), "encoder.norm.bias": (WIDTH,)}


def _written(name: str, write: Callable[[pathlib.Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder) / name)
        return (pathlib.Path(folder) / name).read_bytes()


def mutated(family: str, files: dict[str, bytes], rng: np.random.Generator) -> tuple[str, dict[str, bytes]]:
    """One of the family's mutations, by name, and the files after it."""
    table = MUTATIONS[family]
    name = list(table)[rng.integers(len(table))]
    result = dict(files)
    targets = TARGETS[family]
    if name == "shard":
        targets = ("0.safetensors", "1.safetensors")
        name, table = (
            list(MUTATIONS["safetensors"])[rng.integers(len(MUTATIONS["safetensors"]))],
            MUTATIONS["safetensors"],
        )
    target = targets[rng.integers(len(targets))]
    result[target] = table[name](files[target], rng)
    return name, result


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.choice((1, 1, 2, 8, 64)))):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece is doubled, removed, overwritten with zeros, or moved."""
    a, b = sorted(rng.integers(len(data) + 1, size=2))
    at = int(rng.integers(len(data) + 1))
    choices = (data[:at] + data[a:b] + data[at:], data[:a] + data[b:], data[:a] + bytes(b - a) + data[b:])
    return choices[rng.integers(3)]


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two entries of one name are meant
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def _in_pickle(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable[[bytes, np.random.Generator], bytes]:
    """The change made to the pickle inside, with lengths and checksums of the zip repaired."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        return _zipped([(n, change(c, rng) if n.endswith("data.pkl") else c) for n, c in _entries(data).items()])

    return mutate


def _pieces(program: bytes) -> list[bytes]:
    starts = [position or 0 for _, _, position in pickletools.genops(program)]
    return [program[a:b] for a, b in zip(starts, [*starts[1:], len(program)], strict=True)]


def _opcodes(program: bytes, rng: np.random.Generator) -> bytes:
    """Opcodes are removed, doubled, exchanged, or hostile ones come between them."""
    pieces = _pieces(program)
    for _ in range(int(rng.choice((1, 1, 2, 5)))):
        i, j = (int(n) for n in rng.integers(len(pieces), size=2))
        action = rng.integers(5)
        if action == 0 and len(pieces) > 1:
            del pieces[i]
        elif action == 1:
            pieces.insert(j, pieces[i])
        elif action == 2:
            pieces[i], pieces[j] = pieces[j], pieces[i]
        elif action == 3:
            pieces.insert(i, ATTACKS[rng.integers(len(ATTACKS))])
        else:
            pieces.insert(i, bytes([rng.integers(256)]))
    return b"".join(pieces)


def _numbers(program: bytes, rng: np.random.Generator) -> bytes:
    """Whole numbers (sizes, offsets, strides, counts) become extreme ones."""
    pieces = _pieces(program)
    places = [i for i, piece in enumerate(pieces) if piece[:1] in b"JKM\x8a"]
    for i in rng.choice(places, size=int(rng.choice((1, 1, 2, 4)))):
        value = EDGES[rng.integers(len(EDGES))] + int(rng.integers(-2, 3))
        data = value.to_bytes(17, "little", signed=True)[: value.bit_length() // 8 + 1]
        pieces[i] = b"\x8a" + bytes([len(data)]) + data
    return b"".join(pieces)


def _directory(data: bytes, rng: np.random.Generator) -> bytes:
    """A field of the zip's headers or directory becomes extreme."""
    changed = bytearray(data)
    marks = [i for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for i in _all(data, mark)]
    for _ in range(int(rng.choice((1, 2)))):
        at = marks[rng.integers(len(marks))] + int(rng.integers(4, 46))
        width = int(rng.choice((2, 4)))
        value = (EDGES[rng.integers(len(EDGES))] & (1 << 8 * width) - 1).to_bytes(width, "little")
        changed[at : at + width] = value[: max(0, len(changed) - at)]
    return bytes(changed)


def _all(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def _archive(data: bytes, rng: np.random.Generator) -> bytes:
    """Entries are removed, doubled, renamed, emptied, enlarged or compressed."""
    entries = list(_entries(data).items())
    i, action = int(rng.integers(len(entries))), rng.integers(6)
    name, content = entries[i]
    if action == 0:
        del entries[i]
    elif action == 5:
        return _zipped([(name, bytes(10_000_000) if n == i else c) for n, (name, c) in enumerate(entries)], 8)
    else:
        entries[i] = ((name, content), (name + "x", content), (name, b""), (name, content * 2))[action - 1]
    return _zipped(entries + ([(name, content)] if action == 1 else []))


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """A value of a JSON object, anywhere in it, is replaced, removed or doubled under another key."""
    whole: dict[Any, Any] = {"": json.loads(data)}
    for _ in range(int(rng.choice((1, 1, 2)))):
        node: Any = whole
        key: Any = ""
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            key = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
        action, value = rng.integers(4), copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
        inside = isinstance(node, dict) and node is not whole
        if action == 0 and inside:
            del node[key]
        elif action == 1 and inside:
            node[value if isinstance(value, str) else f"{key}2"] = node[key]
        else:
            node[key] = value
    return json.dumps(whole[""]).encode()


def _nested(data: bytes, rng: np.random.Generator) -> bytes:
    del data
    return (b'{"a":', b"[")[rng.integers(2)] * int(rng.choice((100, 10_000, 1_000_000)))


def _twice(data: bytes, rng: np.random.Generator) -> bytes:
    """A key occurs twice: the object's items once more behind the first."""
    del rng
    return data.rstrip()[:-1] + b"," + data[1:]


def _in_header(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable[[bytes, np.random.Generator], bytes]:
    """The change made to the header of a .safetensors file, its length repaired."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = change(data[8 : 8 + length], rng)
        return struct.pack("<Q", len(header)) + header + data[8 + length :]

    return mutate


def _length(data: bytes, rng: np.random.Generator) -> bytes:
    return struct.pack("<Q", (EDGES[rng.integers(len(EDGES))] + int(rng.integers(-2, 3))) % 2**64) + data[8:]


TARGETS = {
    "pth": ("x.pth",),
    "safetensors": ("x.safetensors",),
    "index": ("model.safetensors.index.json",),
    "config": ("config.json", "preprocessor_config.json"),
}
ANY: dict[str, Any] = {"bits": _flip, "cut off": _truncate, "spliced": _splice}
TEXT: dict[str, Any] = {"values": _json, "nesting": _nested, "doubled keys": _twice}
MUTATIONS: dict[str, dict[str, Any]] = {
    "pth": ANY | {"zip fields": _directory, "entries": _archive, "pickle: bits": _in_pickle(_flip),
                  "pickle: opcodes": _in_pickle(_opcodes), "pickle: numbers": _in_pickle(_numbers)},
    "safetensors": ANY | {"length": _length, "header: bits": _in_header(_flip)}
    | {f"header: {name}": _in_header(change) for name, change in TEXT.items()},
    "index": {"bits": _flip, "cut off": _truncate, "shard": None} | TEXT,
    "config": {"bits": _flip, "cut off": _truncate} | TEXT,
}  # fmt: skip
