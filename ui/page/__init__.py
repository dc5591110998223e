"""The page: context, live updates, forms, messages."""
