"""The section of the config that says which networks are judged again when the search is over."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from blendsearch.runs.section import Section

if TYPE_CHECKING:
    from blendsearch.runs.config import Config


class PromoteConfig(Section):
    """The `share` of networks, the best by the search's own judgement, that are judged again in the end.

    At a dearer fidelity; or on the `unused` validation images, which `data.val_limit` hides from the search, so that
    what was chosen for its luck with the others is found out. What was found is the best of these by this judgement.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    fidelity: Literal["recalibrated", "tuned"] = "tuned"
    images: Literal["same", "unused"] = "same"


def check_promote(config: "Config") -> None:
    """Raise ValueError where nothing new would be learnt."""
    promote = config.promote
    if not promote.share:
        return
    if promote.images == "same" and promote.fidelity == config.fitness.fidelity:
        raise ValueError(
            f"promote would judge the same again: fitness.fidelity is {promote.fidelity} too; take another "
            "promote.fidelity, or promote.images unused"
        )
    if promote.images == "unused" and config.data.val_limit is None:
        raise ValueError(
            "promote.images unused are validation images that the search does not see: set data.val_limit to how many "
            "it is to see"
        )
