"""What every part uses: errors for invalid input, files written whole, the machine."""
