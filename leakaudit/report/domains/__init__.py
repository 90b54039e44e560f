"""How one kind of sample is shown, one file a kind."""
