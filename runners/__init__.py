"""What an experiment does: one file a type, over shared statistics (``stats``) and interventions (``design``)."""
