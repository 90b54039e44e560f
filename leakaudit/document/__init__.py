"""The report's document: one versioned JSON schema, what may be shown of it, and whether it is as it was."""
