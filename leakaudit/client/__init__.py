"""Private: the samples, what a client does with them, and what it sent."""
