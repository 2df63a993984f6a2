"""`python -m vmae_jax` is the `vmae` command."""

import sys

from vmae_jax.cli import main

sys.exit(main())
