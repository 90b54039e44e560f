"""Algebra of the closed-form attacks: what one layer's equations determine, and how to solve them.

Same wall as `leakaudit.attacks`: nothing here can reach a private sample.
"""
