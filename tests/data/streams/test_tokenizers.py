"""CLIP's tokenizer: words, merges by hand, both forms of its files, and what is refused."""

import json
import pathlib

import pytest
from numbered_videos import numbered_frames

from vmae_jax.data import clips, sides, sources, transforms
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.streams import tokenizers
from vmae_jax.data.streams.text import text
from vmae_jax.data.streams.tokenizers import clip, utf8, words
from vmae_jax.spec import ConfigError

MERGES = [
    ("r", "u"),
    ("ru", "n</w>"),
    ("a", "n"),
    ("d", "o"),
    ("do", "g</w>"),
    ("'", "s</w>"),
    ("an", "d</w>"),
    ("Ã", "©"),
]
SYMBOLS = [*tokenizers._BYTES, *(f"{one}</w>" for one in tokenizers._BYTES), *("".join(pair) for pair in MERGES)]
NUMBERS = {symbol: number for number, symbol in enumerate([*SYMBOLS, "<|startoftext|>", "<|endoftext|>"])}
BEGIN, END = len(SYMBOLS), len(SYMBOLS) + 1
SENTENCES = (
    "A dog runs  and RUN\tagain.",
    "the dog's 25 balls, don't you'll I'VE!!'s",
    "café — cafe\u0301 ΣΑΣ 東京 ½ ٣x_y #1:-)",
    "İstanbul ßtraße \u00a0 e\u0301\u0323 😀",
    "",
)


def written(folder: pathlib.Path, *, together: bool = False, **change):
    folder.mkdir()
    numbers = {name: number for name, number in {**NUMBERS, **change}.items() if number is not None}
    if together:
        model = {"vocab": numbers, "merges": [list(pair) for pair in MERGES]}
        (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    else:
        (folder / "vocab.json").write_text(json.dumps(numbers))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))
    return str(folder)


def test_words_and_their_merges(tmp_path):
    assert list(words("The dog's  42!? don't")) == ["the", "dog", "'s", "4", "2", "!?", "don", "'t"]
    made = clip(written(tmp_path / "clip")).opened()
    symbols = {number: symbol for symbol, number in NUMBERS.items()}
    found = [symbols[number] for number in made.encode("Run, dog's band")]
    assert found == ["<|startoftext|>", "run</w>", ",</w>", "dog</w>", "'s</w>", "b", "and</w>", "<|endoftext|>"]
    assert made.encode("é")[1:-1] == [NUMBERS["Ã"], NUMBERS["©</w>"]]  # the last symbol of a word is marked
    assert made.encode("éa")[1:-1] == [NUMBERS["Ã©"], NUMBERS["a</w>"]]
    assert made.vocabulary == END + 1
    assert made.encode(" ") == [BEGIN, END]


def test_both_forms_of_the_files_are_one_tokenizer(tmp_path):
    one, other = (clip(written(tmp_path / f"{whole}", together=whole)).opened() for whole in (False, True))
    assert one == other
    assert [one.encode(text) for text in SENTENCES] == [other.encode(text) for text in SENTENCES]


def test_a_stream_is_opened_before_videos_are_read(tmp_path):
    stream = text(clip(written(tmp_path / "clip")), length=4)
    assert stream.opened().tokenizer.encode("run") == [BEGIN, NUMBERS["run</w>"], END]
    assert text(utf8()).opened() == text(utf8())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"<|endoftext|>": None}, r"another tokenizer's: it has no number of '<\|endoftext\|>'"),
        ({"Ã©": None}, "it has no number of 'Ã©'"),
        ({"b": "7"}, "another tokenizer's: some symbols have no whole number"),
    ],
)
def test_files_of_another_tokenizer_are_one_line(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words) as error:
        clip(written(tmp_path / "clip", **change)).opened()
    assert "\n" not in str(error.value)


def test_a_folder_without_the_files_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json, or vocab\.json and merges\.txt.*No such file"):
        clip(str(tmp_path)).opened()
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ConfigError, match="that can be read"):
        clip(f"{tmp_path}/").opened()


def test_captions_reach_a_batch_in_these_numbers(tmp_path):
    """Through the decoding process, which gets the opened tokenizer; files that are not there end it before that."""
    videos, folder = tmp_path / "videos", written(tmp_path / "clip")
    videos.mkdir()
    (videos / "a.mp4").write_bytes(encode_h264(numbered_frames(4), quality=4))
    (videos / "a.txt").write_text("A dog.\n\nthe dogs run\n")
    source = sides.beside(sources.folder(str(videos)), {"text": sides.sidecar(".txt")})

    def loading(path):
        streams = {"text": text(clip(path), length=6)}
        return loader(source, clips.dense(2, 1), [transforms.resize(8)], global_batch=1, repeat=8, streams=streams)

    with open_loader(loading(folder)).batches(rows=range(8), seed=0) as batches:
        batch = next(batches)
    made = clip(folder).opened()
    found = {tuple(row[mask].tolist()) for row, mask in zip(batch["text"], batch["text_mask"], strict=True)}
    assert found == {tuple(made.encode("A dog.")), (*made.encode("the dogs run")[:5], END)}  # each of both is drawn
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        open_loader(loading(str(videos)))


@pytest.mark.torch
def test_numbers_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer(vocab=NUMBERS, merges=MERGES)
    ours = clip(written(tmp_path / "clip")).opened()
    for sentence in SENTENCES:
        assert ours.encode(sentence) == theirs(sentence)["input_ids"], sentence
    theirs.save_pretrained(tmp_path / "saved")
    assert clip(str(tmp_path / "saved")).opened() == ours
