"""The metric that networks of a run are shown by: accuracy, a task's own metric, or the loss."""

from dataclasses import dataclass

from blendsearch.results.record import Record


@dataclass(frozen=True, kw_only=True)
class RunMetric(Record):
    """The name, the direction and the storage of a metric.

    Attributes
    ----------
    name: ``accuracy``, the name that the task gives, or ``loss``.
    higher: True if higher is better.
    share: True if values are in [0, 1], shown in per cent, and stored as 1 minus the error. Others are stored as the
        loss, or, where higher is better, as 1 minus the loss.
    """

    name: str = "accuracy"
    higher: bool = True
    share: bool = True

    @property
    def loss_name(self) -> str:
        """The name of what is stored as loss: that of the metric, where it is no share."""
        return "loss" if self.share else self.name

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher else "lower is better"

    def convert_loss(self, loss: float) -> float:
        """Convert a stored loss to the value under `loss_name`."""
        return 1 - loss if self.higher and not self.share else loss

    def format(self, value: float) -> str:
        return f"{value:.2%}" if self.share else f"{value:.4g}"


ACCURACY = RunMetric()
