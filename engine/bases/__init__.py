"""Getting a base model: the list that is offered, its download, and those that other programs have. No torch."""
