from small_collection import collection  # noqa: F401
