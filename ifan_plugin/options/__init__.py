"""What an option may be and how it is said: schemas, option files, command lines."""
