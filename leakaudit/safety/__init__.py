"""What keeps files, folders and names of others from doing harm."""
