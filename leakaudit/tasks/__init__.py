"""What a label is: the loss that is minimised, what an update tells of labels, and how inferred ones are counted."""
