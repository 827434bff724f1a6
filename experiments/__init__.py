"""Entry points: one command per benchmark, over one shared launcher."""
