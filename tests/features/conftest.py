"""The tests of features read small videos that are made as those of the tests of data."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "data"))
