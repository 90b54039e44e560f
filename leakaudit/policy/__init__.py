"""What fails: the policy, its application, and the comparison with an earlier report."""
