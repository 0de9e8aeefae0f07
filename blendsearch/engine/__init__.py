"""Engines: where evaluations run, in this process or on Ray. The only layer that imports Ray."""
