"""Configuration of Sphinx: ``uv run --group docs sphinx-build -W --keep-going -b html docs docs/_build``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "blendsearch"
author = "the blendsearch authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings", "drawn", "generated", "offline"]
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

smartquotes = False  # --name is two dashes
default_role = "code"  # docstrings name things in single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = "blendsearch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"footer_icons": []}
