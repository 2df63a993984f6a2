"""Files of weights of others, read without running anything in them, and written atomically."""
