"""What a sample is: shape, valid range, starts, prior and public look-alikes; public knowledge, never a sample."""
