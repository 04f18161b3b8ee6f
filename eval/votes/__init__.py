"""Votes of people: the page on which they compare pictures, and how votes are counted."""
