"""Kattegat watches over the systems of one or many organisations."""
