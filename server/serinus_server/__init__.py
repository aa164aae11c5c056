"""The embedding server of Serinus, and the tools that package and verify its models."""
