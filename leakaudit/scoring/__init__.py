"""Private: reconstructions against the samples they belong to."""
