//! From host, path and method to a route.
