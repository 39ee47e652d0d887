"""Experiments: one `get_config()` file each. `base` holds the defaults that the others change."""
