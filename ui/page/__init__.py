"""What the tabs share: context, live updates, forms, lists, messages; and the cards above the tabs."""
