"""Protocols: how a client makes an update of a batch. Client and attacker call the same function."""
