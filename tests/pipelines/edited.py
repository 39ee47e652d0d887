"""Prepared folders that a test changes; the manifest vouches for the new content."""

import numpy as np

from minirec import files


def replace_array(prepared, name, array):
    """Puts another array in the place of `prepared / name`."""
    np.save(prepared / name, array)
    vouch_for(prepared, name)


def vouch_for(prepared, name, **changes):
    """Lets the manifest vouch for what lies at `prepared / name`, and say something else itself."""
    manifest = files.read_sealed(prepared / "manifest.json", "")
    manifest["outputs"] |= files.checksums(prepared, [name])
    files.write_sealed(prepared / "manifest.json", manifest | changes)
