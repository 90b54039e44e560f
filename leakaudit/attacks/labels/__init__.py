"""Labels read off an update."""
