"""What was learned and what is certain: encoders, refinement, trust."""
