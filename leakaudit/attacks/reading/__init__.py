"""What several closed-form readers share."""
