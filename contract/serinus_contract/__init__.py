"""What operator and server both must know, stated once. Standard library only; imports neither of them."""
