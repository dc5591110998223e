"""Other programs that read our exports: their own code, where it is given."""
