"""Parts of the family sweep: its observational side, and the confounding gap."""
