# The steps of .ci/run, one by one.
.PHONY: check test docs

check:
	uv run ruff check .
	uv run ruff format --check .
	uv run mypy
	uv run lint-imports

test:
	uv run pytest -n 2

docs:
	uv run --group docs sphinx-build -W --keep-going -q -b html docs docs/_build
