"""Experiments: one `get_config()` file each. `blocks` has what they are composed of."""
