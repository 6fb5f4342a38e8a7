"""What a job uses, and has used."""
