"""What is in a checkpoint, and which network it makes."""
