from mining_world import world  # noqa: F401
