"""Several audits of one model: variants, and settings of a defence."""
