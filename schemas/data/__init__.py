"""The facts of the game, as data files: abilities, weapon kits, and how builds are composed."""
