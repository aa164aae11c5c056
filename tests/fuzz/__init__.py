"""Bytes that nobody meant, for everything that reads what others write."""
