"""Hugging Face checkpoints of Qwen2, Qwen2.5 and Qwen3 as decoders, and back."""

from minirec.models.hf.config_json import read_config
from minirec.models.hf.load import load_checkpoint
from minirec.models.hf.save import save_checkpoint

__all__ = ["read_config", "load_checkpoint", "save_checkpoint"]
