"""Structure of networks: groups of channels that can be cut, surgery that cuts them, and exact costs."""
