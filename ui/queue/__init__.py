"""The queue in the header: how many jobs wait, and the panel that shows and changes them."""
