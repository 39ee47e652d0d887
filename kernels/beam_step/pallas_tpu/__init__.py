"""The parts of the Pallas TPU kernels: over row tables, over mask tables, exact selection."""
