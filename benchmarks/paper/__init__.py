"""The tables and figures of Keller et al. 2021, Self Normalizing Flows, measured again by one command each."""
