"""The fused head: from hidden states and a head's rows to the best beams, without the logits."""

from kernels.head_beam_step.api import IMPLEMENTATIONS, head_beam_step

__all__ = ["head_beam_step", "IMPLEMENTATIONS"]
