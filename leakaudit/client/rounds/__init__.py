"""What a real client sent, from files."""
