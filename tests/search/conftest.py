from release_fixtures import settings  # noqa: F401
