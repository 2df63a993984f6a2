"""The reference side of a comparison, in a process of its own that takes a step on request."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

__all__ = ["CONTENDERS", "Against"]

# The names of `vmae bench step --against`: arguments of `bench.reference`.
CONTENDERS = {
    "torch": ["--attention=eager"],
    "torch-fused": ["--attention=sdpa"],
    "torch-compiled": ["--attention=sdpa", "--compile"],
}


class Against:
    """`vmae_jax.bench.reference`, started on a folder; used in a `with` statement.

    Attributes:
      about: versions and threads of the reference.
      last: "seconds", "loss" and "peak_bytes" of its last step.
    """

    def __init__(self, contender: str, folder: pathlib.Path, *, dtype: str, threads: int = 0) -> None:
        arguments = [str(folder), *CONTENDERS[contender], f"--dtype={dtype}", f"--threads={threads}"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vmae_jax.bench.reference", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # On a GPU both sides need its memory.
            env=os.environ | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        )
        self.last: dict[str, Any] = {}
        self.about: dict[str, Any] = self._answer()

    def step(self) -> float:
        """Take a step; return its seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"the reference ended: {self._why()}") from None
        self.last = self._answer()
        return self.last["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the reference ended: {self._why()}")

    def _why(self) -> str:
        self._process.wait(timeout=60)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def __enter__(self) -> "Against":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
