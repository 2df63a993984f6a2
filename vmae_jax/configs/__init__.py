"""The experiments that come with the package: `--config=configs/NAME.py`, or imported by a config of the user's own."""
