"""What is known of weapons in the data, shared by the types that ask for them."""
