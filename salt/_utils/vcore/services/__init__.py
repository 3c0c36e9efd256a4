"""The catalogue of services, and how the services that the site wants are resolved."""

USES = ()
