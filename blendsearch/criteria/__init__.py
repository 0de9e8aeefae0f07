"""How much each channel matters, by many partial views: model and data -> score table."""
