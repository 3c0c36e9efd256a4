"""The catalogue of services, and what becomes of a service that the site wants."""

USES = ()
