"""Kinds of black box, a file each."""
