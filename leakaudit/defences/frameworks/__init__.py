"""Filters of federated-learning frameworks as defences, under their own names and in their own units.

Their text is that of a call, ``nvflare:PercentilePrivacy(percentile=90,gamma=0.01)``; the entry point of one is its
name with a dot in place of the colon. They act on what a client sends after local training: a difference of weights.
"""
