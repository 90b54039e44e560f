"""Where cells of a sweep run: in this process, in local ones, or on a Ray cluster."""
