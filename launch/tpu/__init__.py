"""Training on a Cloud TPU VM, which may be taken away at any time; see docs/tpu_runbook.md."""
