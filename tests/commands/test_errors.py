"""What is printed for an error: one line that a terminal can show, whatever a stranger's file put into it."""

import errno

from vmae_jax.commands.errors import describe
from vmae_jax.spec import ConfigError


def test_an_error_is_one_printable_line():
    quoted = describe(ConfigError("no column 'x',\n only \x1b[2Ja\udce9\u2028b\\n"))
    assert quoted == r"no column 'x', only \x1b[2Ja\xe9 b\n"
    assert describe(ConfigError("")) == "ConfigError"
    full = describe(OSError(errno.ENOSPC, "No space left on device", "a\x07"))
    assert full.startswith("[Errno 28] No space left on device: 'a\\x07': free space")
