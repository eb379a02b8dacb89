from mining_world import crowd, make_embeddings, make_run, make_snapshot, world  # noqa: F401
