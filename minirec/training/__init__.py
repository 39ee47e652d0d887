"""Training: a loop that knows tasks and stages, stops and goes on exactly, and keeps the best."""

from minirec.training.checkpoints import MismatchError, best_step, load_best, load_last
from minirec.training.config import Stage, TrainConfig, as_record
from minirec.training.loop import train
from minirec.training.metrics_log import is_wall_clock, read_metrics, without_wall_clock
from minirec.training.monitors import Monitor
from minirec.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from minirec.training.reporter import NonFiniteError
from minirec.training.result import TrainResult
from minirec.training.run_folder import RunFolderError, compare
from minirec.training.tasks.item_task import ItemTask
from minirec.training.tasks.sid_prefixes import SidPrefixes
from minirec.training.tasks.sid_task import SidTask
from minirec.training.tasks.task import Task
from minirec.training.tasks.text_neighbours import TextNeighbours
from minirec.training.tasks.token_task import TokenTask

__all__ = [
    "train",
    "TrainConfig",
    "TrainResult",
    "Stage",
    "Monitor",
    "Task",
    "SidTask",
    "TokenTask",
    "ItemTask",
    "SidPrefixes",
    "TextNeighbours",
    "OptimizerConfig",
    "make_optimizer",
    "make_schedule",
    "best_step",
    "load_best",
    "load_last",
    "as_record",
    "read_metrics",
    "without_wall_clock",
    "is_wall_clock",
    "MismatchError",
    "NonFiniteError",
    "RunFolderError",
    "compare",
]
