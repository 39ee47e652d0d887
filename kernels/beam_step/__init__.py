"""The beam step: from logits and beams to the best beams one token longer."""

from kernels.beam_step.api import (
    IMPLEMENTATIONS,
    Beams,
    BeamStep,
    Implementation,
    beam_select,
    beam_step,
    default_implementation,
    record_implementations,
)

__all__ = [
    "beam_step",
    "beam_select",
    "Beams",
    "BeamStep",
    "IMPLEMENTATIONS",
    "Implementation",
    "default_implementation",
    "record_implementations",
]
