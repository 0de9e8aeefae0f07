"""Base of dispatch modes that are never compiled."""

from torch.utils._python_dispatch import TorchDispatchMode


class EagerMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that leaves torch._dynamo unloaded: the default imports it, which takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
