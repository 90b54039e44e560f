"""Names that options and protocols have in common. Importing it loads nothing heavy."""

WITHHELD = ("learning_rate", "local_epochs", "local_batch_size")
"""Settings that a server may not know of a client that it did not set up."""
