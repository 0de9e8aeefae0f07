"""Where evaluations run: in this process, or on Ray. The only floor that knows Ray."""
