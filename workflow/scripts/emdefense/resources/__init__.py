"""How much memory and time a job asks a cluster for, by arithmetic; imports nothing of the training stack."""
