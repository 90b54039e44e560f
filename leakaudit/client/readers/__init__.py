"""Private samples from files, one reader a kind."""
