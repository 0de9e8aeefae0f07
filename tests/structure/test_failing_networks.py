"""Networks and exceptions of users that fail without a text, or with several lines of it."""

import pytest
import torch
from torch import Tensor, nn

from blendsearch.errors import TraceError, format_error, format_reason
from blendsearch.structure.trace import trace_structure


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 1:
            raise AssertionError
        return self.conv(x).mean((2, 3))


def test_a_bare_assertion_in_a_network_is_one_line() -> None:
    with pytest.raises(TraceError, match=r"^Picky does not accept one image of shape .*: AssertionError; check the"):
        trace_structure(Picky(), (3, 8, 8), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ValueError"),
        ("\n \n", "ValueError"),
        ("first\nsecond", "first"),
        ("\n\x1b[31mred\x1b[0m\nsecond", "red"),
        ("long" * 1000, ("long" * 1000)[:500]),
    ],
)
def test_an_exception_is_one_line(text: str, reason: str) -> None:
    error = ValueError(text)
    assert format_reason(error) == reason
    assert format_error(error) == ("ValueError" if reason == "ValueError" else f"ValueError: {reason}")
