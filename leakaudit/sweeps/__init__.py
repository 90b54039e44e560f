"""Several audits: variants of a model, settings of a defence, and whole grids on one machine or many."""
