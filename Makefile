# The steps of .ci/run, one by one.
.PHONY: check test docs pins

check:
	uv run ruff check .
	uv run ruff format --check .
	uv run mypy
	uv run lint-imports

test:
	uv run pytest -n 2

docs:
	uv run --group docs sphinx-build -W --keep-going -q -b html docs docs/_build

pins: ## the newest versions that pyproject.toml allows, in requirements-dev.txt
	uv lock --quiet --upgrade
	(sed -n '/^#/p' requirements-dev.txt; uv export --quiet --frozen --all-extras --all-groups --no-hashes --no-emit-project \
		--no-annotate --no-header) > requirements-dev.new && mv requirements-dev.new requirements-dev.txt
