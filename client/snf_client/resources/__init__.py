"""Groups of calls of the client, a module for each kind of resource."""
