"""The JSON Schema of configs, with which editors complete and check them."""

from typing import Any

from blendsearch.runs.config.schema import COSTS, load_config_class

SHARE = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string", "pattern": "^[0-9.]+ ?%$"}]
}
"""A share of a cost: 0.5, or 50%."""

SPAN: dict[str, Any] = {"anyOf": [*SHARE["anyOf"], {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2}]}


def make_json_schema() -> dict[str, Any]:
    """Make the schema, with the short forms of budgets that `load_config` understands."""
    found = load_config_class().model_json_schema()
    budget = found["$defs"]["BudgetConfig"]["properties"]
    for cost in COSTS:
        budget[cost] = {**budget[cost], "anyOf": [*SPAN["anyOf"], {"type": "null"}]}
    found["properties"]["budget"] = {"anyOf": [{"$ref": "#/$defs/BudgetConfig"}, *SPAN["anyOf"]]}
    # what a method sets need not be in the config
    found["required"] = [name for name in found.get("required", []) if name != "budget"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "blendsearch config", **found}
