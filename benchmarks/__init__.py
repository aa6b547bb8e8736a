"""What the project measures about its own speed: ``make bench``. Not part of the installed package."""
