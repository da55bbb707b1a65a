"""Several agents: one policy for a team, or a policy for each."""
