"""One gradient-matching engine for every optimisation attack: objective × priors × schedule × engine."""
