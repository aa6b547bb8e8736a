"""What an experiment does: one file a type, over shared ``stats`` and ``design``; what is long has ``parts``."""
