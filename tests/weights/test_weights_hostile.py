"""Weight files that attack their reader: refused in one line, with nothing run, changed or allocated."""

import io
import json
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vmae_jax.cli import main
from vmae_jax.weights.formats import tensors, torch_file
from vmae_jax.weights.formats.torch_write import write_pth

GIB = 1 << 30
BFLOAT = np.dtype(ml_dtypes.bfloat16)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def storage(count=4, kind="FloatStorage", key="0"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(offset=0, size=(4,), stride=(1,), **kept):
    axes = [b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride)]
    return TENSOR + b"(" + storage(**kept) + number(offset) + axes[0] + axes[1] + b"\x89}tR"


def model(value=None, before=b""):
    return b"\x80\x02" + before + b"}" + text("model") + b"}" + text("a") + (value or tensor()) + b"ss."


def packed(path, program, compression=zipfile.ZIP_STORED, data=bytes(range(16)), **entries):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", data)
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


def refusal(path):
    with pytest.raises(tensors.UnreadableFileError) as error:
        tensors.read_file(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < 1000
    return message


def test_the_file_that_the_others_are_changes_of(tmp_path):
    state = tensors.read_file(packed(tmp_path / "x.pth", model())).state
    np.testing.assert_array_equal(state["a"], np.frombuffer(bytes(range(16)), np.float32))


def test_the_command_ends_with_2_and_one_line(tmp_path, capsys):
    path = packed(tmp_path / "x.pth", model(before=b"cposix\nmkdir\n0"))
    assert main(["import", f"--weights={path}", f"--out={tmp_path / 'run'}"]) == 2
    line = capsys.readouterr().err
    assert line.endswith("it names posix.mkdir, which weights do not need; nothing was run\n")
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("itemsize", [4096, 500_000_000])
def test_no_dtype_can_be_given_another_size(tmp_path, itemsize):
    """BUILD with numpy's own state of a dtype: it would change bfloat16 for the whole process."""
    state = b"(" + number(3) + text("<") + b"NNN" + number(itemsize) + number(1) + number(0) + b"t"
    attack = b"ctorch\nBFloat16Storage\n" + state + b"b0"
    path = packed(tmp_path / "x.pth", model(tensor(kind="BFloat16Storage"), attack))
    try:
        assert "nothing was changed" in refusal(path)
        assert BFLOAT.itemsize == 2
    finally:
        if BFLOAT.itemsize != 2:  # or the process would not survive the other tests
            BFLOAT.__setstate__((3, "<", None, None, None, 2, 1, 0))


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
        "torch\nSize",
        "torch\nFloatStorage",
        "collections\nOrderedDict",
        "argparse\nNamespace",
    ],
)
def test_what_the_reader_is_made_of_has_no_state_to_set(tmp_path, name):
    attack = b"c" + name.encode() + b"\n}" + text("hacked") + b"\x88sb0"
    refusal(packed(tmp_path / "x.pth", model(before=attack)))
    assert not [item for item in vars(torch_file).values() if hasattr(item, "hacked")]


MKDIR = b"cposix\nmkdir\n"


@pytest.mark.parametrize(
    "attack",
    [
        lambda arguments: MKDIR + arguments + b"R",
        lambda arguments: MKDIR + arguments + b"\x81",
        lambda arguments: MKDIR + arguments + b"}\x92",
        lambda arguments: b"(" + arguments[1:-1] + b"iposix\nmkdir\n",
        lambda arguments: b"(" + MKDIR + arguments[1:-1] + b"o",
        lambda arguments: b"\x8c\x05posix\x8c\x05mkdir\x93" + arguments + b"R",
        lambda arguments: b"cbuiltins\ngetattr\n(" + b"cposix\nmkdir\n" + text("__call__") + b"tR",
        lambda arguments: b"ctorch\n__builtins__\n",
        lambda arguments: b"cvmae_jax.weights.formats.tensors\npathlib.Path\n" + arguments + b"R",
        lambda arguments: b"\x82\x01",
        lambda arguments: b"\x83\x01\x00",
        lambda arguments: b"\x84\x01\x00\x00\x00",
        lambda arguments: b"P0\n",
        lambda arguments: text("posix") + text("mkdir") + b"\x86" + arguments + b"R",
        lambda arguments: b"ctorch\nFloatStorage\n" + arguments + b"R",
        lambda arguments: arguments + b"Q",
        lambda arguments: b"(" + text("storage") + MKDIR + text("0") + text("cpu") + number(4) + b"tQ",
        lambda arguments: b"]" + arguments + b"b",
        lambda arguments: TENSOR + arguments + b"R",
        lambda arguments: b"ctorch._utils\n_rebuild_parameter\n" + arguments + b"R",
        lambda arguments: b"ctorch\nSize\n" + arguments + b"R",
        lambda arguments: b"ccollections\nOrderedDict\n" + arguments + b"R",
    ],
)
def test_nothing_is_called_that_the_table_does_not_have(tmp_path, attack):
    made = tmp_path / "made"
    arguments = b"(" + text(str(made)) + b"t"
    refusal(packed(tmp_path / "x.pth", model(before=attack(arguments) + b"0")))
    assert not made.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"]" * 100_000 + b"a" * 99_999,  # nesting
        b"]q\x00h\x00a",  # a list in itself
        b"N" + b"\x85" * 100_000,  # a tuple that overflows the stack where it is hashed or compared
        b"}N" + b"\x85" * 100_000 + b"Ns",  # as a key
        b"]" + b"N" * 8 + b"e" + b"".join(b"q\x01](" + b"h\x01" * 9 + b"e" for _ in range(40)),  # a billion laughs
        b"}" + b"".join(b"q\x01}(" + b"".join(text(str(i)) + b"h\x01" for i in range(9)) + b"u" for _ in range(40)),
        b"(" * 100_000,
        b"}" * 2_000_000,
        b"N" + b"\x94" * 2_000_000,
        b"j\xff\xff\xff\xff",
        b"X\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"\x8b\xff\xff\xff\x7f",
        b"\x8a\xff" + b"\x7f" * 255,
        b"0", b"t", b"R", b"b", b"Q", b"u", b"e", b"\x93", b"\x87", b"1", b"}(Nu", b"\xff", b"c" + b"a" * 10_000,
    ],
    ids=range(27),
)  # fmt: skip
def test_programs_that_only_cost_time_and_memory(tmp_path, attack):
    path = packed(tmp_path / "x.pth", b"\x80\x02}" + text("model") + attack + b"s.")
    refusal(path)
    refusal(packed(tmp_path / "y.pth", model(before=attack + b"0") if attack[:1] == b"j" else b"\x80\x02" + attack))


@pytest.mark.parametrize(
    ("change", "reply"),
    [
        ({"count": 1 << 40}, "has 16 bytes, not 1099511627776 elements"),
        ({"count": 5}, "has 16 bytes, not 5 elements"),
        ({"count": -1}, "not -1 elements"),
        ({"kind": "DoubleStorage"}, "of 8 bytes"),
        ({"key": "1"}, "no storage '1'"),
        ({"key": "../data.pkl"}, "no storage"),
        ({"offset": 1}, "outside its storage"),
        ({"offset": -1}, "whole number from 0"),
        ({"size": (5,)}, "outside its storage"),
        ({"size": (-4,)}, "not a list of whole numbers from 0"),
        ({"stride": (2,)}, "outside its storage"),
        ({"stride": (-1,)}, "whole number from 0"),
        ({"stride": (1 << 62,)}, "outside its storage"),
        ({"size": (1 << 40,), "stride": (0,)}, "larger than its data"),
        ({"size": (0, 1 << 60), "stride": (1, 1)}, "larger than its data"),
        ({"size": (2, 2)}, "for each axis"),
        ({"size": (1,) * 40, "stride": (1,) * 40}, "at most 16"),
    ],
)
def test_sizes_that_the_file_does_not_have(tmp_path, change, reply):
    assert reply in refusal(packed(tmp_path / "x.pth", model(tensor(**change))))


def test_one_storage_is_not_many_gigabytes(tmp_path):
    """4,000 tensors of one storage of 256 KiB, which would be a gigabyte."""
    one = tensor(size=(1 << 16,), count=1 << 16)
    items = b"".join(text(str(i)) + one for i in range(4000))
    path = packed(tmp_path / "x.pth", b"\x80\x02}" + text("model") + b"}(" + items + b"us.", data=bytes(1 << 18))
    assert "more than 16 times as large as the file" in refusal(path)


def test_compressed_and_doubled_entries(tmp_path):
    big = packed(tmp_path / "x.pth", model(tensor(size=(75_000_000,), count=75_000_000)), 8, data=bytes(300_000_000))
    assert os.path.getsize(big) < 400_000
    assert "is compressed" in refusal(big)
    with pytest.warns(UserWarning, match="Duplicate name"):
        packed(tmp_path / "y.pth", model(), **{"data.pkl": model()})
    assert "two entries" in refusal(tmp_path / "y.pth")
    assert "exactly one data.pkl" in refusal(packed(tmp_path / "z.pth", model(), **{"b/data.pkl": model()}))


def test_a_directory_that_declares_more_than_the_file_has(tmp_path):
    data = bytearray(packed(tmp_path / "x.pth", model()).read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"PK\x01\x02") + 4)
    data[at + 20 : at + 28] = struct.pack("<II", GIB, GIB)
    (tmp_path / "x.pth").write_bytes(data)
    assert "larger than the file" in refusal(tmp_path / "x.pth")


def test_encrypted(tmp_path):
    data = bytearray(packed(tmp_path / "x.pth", model()).read_bytes())
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.find(mark)
        data[place + at] |= 1
    (tmp_path / "x.pth").write_bytes(data)
    assert "compressed or encrypted" in refusal(tmp_path / "x.pth")


def test_other_formats_and_no_files(tmp_path):
    (tmp_path / "old.pth").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    assert "before 1.6: open it with torch.load" in refusal(tmp_path / "old.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in refusal(tmp_path / "pipe.pth")
    os.symlink("loop.safetensors", tmp_path / "loop.safetensors")
    assert "cannot be read" in refusal(tmp_path / "loop.safetensors")
    write_pth(tmp_path / "name.pth", {"model": {"a\nb\x1b[2J": np.ones(1, np.float32)}})
    assert "is not a name of a tensor" in refusal(tmp_path / "name.pth")


def safetensors_file(path, header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(4,), begin=0, end=16):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "reply"),
    [
        ({"a": entry("F4")}, "dtype 'F4'; F64"),
        ({"a": entry(["F32"])}, "dtype a list"),
        ({"a": entry(shape=(1 << 62, 4))}, "larger than its data"),
        ({"a": entry(shape=(3,))}, "not its shape"),
        ({"a": entry(shape=(-4,))}, "whole numbers"),
        ({"a": entry(shape=(True,))}, "whole numbers"),
        ({"a": entry(shape=(1,) * 20)}, "at most 16"),
        ({"a": entry(end=20, shape=(5,))}, "16 bytes of data"),
        ({"a": entry(begin=8, shape=(2,))}, "where 0 was expected"),
        ({"a": entry(begin=-4)}, "whole numbers"),
        ({"a": entry(), "b": entry()}, "where 16 was expected"),
        ({"a": entry(shape=(0, 1 << 40), end=0)}, "larger than its data"),
        ({"a": {"dtype": "F32"}}, "needs a dtype"),
        ({"a": 3}, "needs a dtype"),
        ({"a\n": entry()}, "not a name"),
        ({"": entry()}, "not a name"),
        ({"a": entry(), "__metadata__": {"x": 1}}, "__metadata__"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b"[]", "JSON object"),
        (b"{" + b", ".join([f'"a": {json.dumps(entry())}'.encode()] * 2) + b"}", "'a' occurs twice"),
        (b'{"\xff": 1}', "not JSON"),
    ],
)
def test_safetensors_headers(tmp_path, header, reply):
    assert reply in refusal(safetensors_file(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_safetensors_lengths(tmp_path, length):
    refusal(safetensors_file(tmp_path / "x.safetensors", {"a": entry()}, length=length))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_narrow_floats_are_read(tmp_path, dtype):
    values = np.array([0.5, -2, 1, 0], getattr(ml_dtypes, dtype))
    name = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bfloat16": "BF16"}[dtype]
    header = {"a": entry(name, end=values.nbytes)}
    found = tensors.read_file(safetensors_file(tmp_path / "x.safetensors", header, values.tobytes())).state["a"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found.astype(np.float32), [0.5, -2, 1, 0])


@pytest.mark.parametrize(
    "place",
    [3, None, [], "", "\x00", "\ud800", "x" * 5000, "a\nb.safetensors", "sub", "model.safetensors.index.json",
     "config.json", "loop.safetensors"],
)  # fmt: skip
def test_an_index_names_files_of_weights_only(tmp_path, place):
    (tmp_path / "sub").mkdir()
    os.symlink("loop.safetensors", tmp_path / "loop.safetensors")
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(tensors.UnreadableFileError) as error:
        tensors.read_file(index)
    assert str(error.value).isprintable()


def test_what_pytorch_also_writes(tmp_path):
    """Attributes of an OrderedDict, shared storages, protocol 4, booleans, Python 2's text: all read."""
    ordered = b"ccollections\nOrderedDict\n)R(" + text("a") + tensor() + b"u}" + text("_metadata") + b"Nsb"
    program = b"\x80\x04\x95" + bytes(8) + b"}\x94(" + text("model") + ordered + b"U\x05epochK\x03u."
    file = tensors.read_file(packed(tmp_path / "x.pth", program))
    assert list(file.state) == ["a"]
    assert file.other == ("epoch",)
    view = tensor(offset=1, size=(2, 2), stride=(1, 1))
    found = tensors.read_file(packed(tmp_path / "y.pth", model(view))).state["a"]
    whole = np.frombuffer(bytes(range(16)), np.float32)
    np.testing.assert_array_equal(found, [whole[1:3], whole[2:4]])
    flags = tensor(kind="BoolStorage", count=16, size=(3,))
    np.testing.assert_array_equal(
        tensors.read_file(packed(tmp_path / "z.pth", model(flags))).state["a"], [False, True, True]
    )
    with io.BytesIO() as other:  # a file that is no zip at all, whatever its name
        other.write(b"PK\x03\x04")
        (tmp_path / "n.pth").write_bytes(other.getvalue())
    assert "zip format" in refusal(tmp_path / "n.pth")
