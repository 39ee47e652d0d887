"""The beam step: from logits and beams to the best beams one token longer."""

from kernels.beam_step.api import (
    IMPLEMENTATIONS,
    NORMALIZE,
    Beams,
    BeamStep,
    beam_select,
    beam_step,
    default_implementation,
)
from kernels.dispatch import Implementation, UnsupportedError, record_implementations

__all__ = [
    "beam_step",
    "beam_select",
    "Beams",
    "BeamStep",
    "IMPLEMENTATIONS",
    "NORMALIZE",
    "Implementation",
    "UnsupportedError",
    "default_implementation",
    "record_implementations",
]
