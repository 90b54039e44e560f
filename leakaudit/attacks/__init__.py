"""The attacks: one file one attack. `leakaudit.attacks.base` owns the contract, `registry` finds them."""
